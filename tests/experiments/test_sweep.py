"""Sweeps of real programs: six with a planted bug each, and the same ones without."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kmem_harness import Harness
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.experiments.smallest_limit import smallest_limit
from kmem_harness.experiments.sweep_runs import BoxRuns
from kmem_harness.faults.sweep import Plan, Sweep
from tests.support.programs import Programs, find_compiler, why_no_compiler

PLANTED = Path(__file__).parent.parent / "programs" / "planted"
_HANGS_AFTER_SECONDS = 1.0
#: Of what never hangs, on a machine that is busy.
_SURELY_SECONDS = 30.0
#: What the sweep has to find in each, and where.
BUGS = {
    "unchecked_fork": ("output", {"clone", "fork"}),
    "unchecked_pipe": ("output", {"pipe", "pipe2"}),
    "leak_on_error": ("leak", {"pipe", "pipe2"}),
    "crash_on_socket": ("crash", {"socketpair"}),
    "hang_on_enomem.py": ("hang", {"socket"}),
    "lost_write.sh": ("files", {"openat", "open"}),
}


@pytest.fixture(scope="module")
def harness():
    with Harness() as one:
        yield one


@pytest.fixture(scope="module")
def command_of():
    """Give the command of a planted program, compiled if need be."""
    directory = Path(tempfile.mkdtemp(prefix="kmem-planted-"))
    directory.chmod(0o755)
    compiler = find_compiler()

    def command(name):
        if name.endswith(".py"):
            return [sys.executable, "-I", "-S", str(PLANTED / name)]
        if name.endswith(".sh"):
            return ["sh", str(PLANTED / name)]
        if compiler is None:
            pytest.skip(why_no_compiler())
        return [str(Programs(directory, compiler, PLANTED)[name])]

    yield command
    shutil.rmtree(directory)


def swept(harness, command, *, seconds=_HANGS_AFTER_SECONDS, **plan):
    # Of Python's own start, files alone would be failed: the long form does that.
    if command[0] == sys.executable:
        plan.setdefault("calls", "socket")
    return Sweep(Plan(**plan), BoxRuns(harness, command, seconds)).go()


@pytest.mark.parametrize("name", BUGS)
def test_sweep_when_a_bug_is_planted_then_finds_it_and_its_line_shows_it_again(
    harness, command_of, name
):
    what, calls = BUGS[name]
    result = swept(harness, command_of(name), jobs=2)
    (group,) = result.groups
    assert group.what == what
    assert group.site.syscall in calls
    assert group.reproduced
    again = BoxRuns(harness, command_of(name), _HANGS_AFTER_SECONDS)((group.rule,))
    assert again.failed
    assert again.site.syscall in calls


@pytest.mark.parametrize("name", BUGS)
def test_sweep_when_the_bug_is_mended_then_finds_nothing(harness, command_of, name):
    result = swept(harness, [*command_of(name), "fixed"], jobs=2)
    assert result.groups == []
    assert result.normal.charges >= 1


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True])
def test_sweep_when_all_of_a_python_program_is_swept_then_its_start_survives(
    harness, command_of, fixed
):
    command = [*command_of("hang_on_enomem.py"), *(["fixed"] if fixed else [])]
    result = swept(harness, command, calls="charge", jobs=2)
    assert {group.what for group in result.groups} == (set() if fixed else {"hang"})


@pytest.mark.slow
def test_sweep_when_a_script_makes_hundreds_of_charges_then_each_is_failed_in_turn(harness):
    # Planted by nobody: neither `a && b` under set -e nor the head of a pipeline is checked.
    script = """
        set -e
        cd "$TMPDIR"
        for n in 1 2 3; do
            mkdir "dir$n" && echo "record $n" >"dir$n/log" && sort "dir$n/log" | wc -l >>total
        done
        cat total
    """
    result = swept(harness, ["sh", "-c", script], modes=("once",), jobs=4)
    assert result.swept["once"] >= 300
    found = {(group.what, group.site.syscall) for group in result.groups}
    assert ("output", "mkdir") in found
    assert len(result.groups) <= 10


def test_sweep_when_on_the_command_line_then_prints_what_a_person_can_paste(command_of, tmp_path):
    words = [sys.executable, "-m", "kmem_harness", "sweep", "--each-charge", "-n", "2"]
    state = str(tmp_path / "state.jsonl")
    command = command_of("lost_write.sh")

    def run(*options):
        return subprocess.run(
            [*words, "--state", state, *options, "--", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    outcome = run()
    assert outcome.returncode == 1, outcome.stderr
    assert '@pytest.mark.kmem_fault("openat:error=ENOMEM:when=' in outcome.stdout
    assert "kmem-harness run --inject openat:error=ENOMEM" in outcome.stdout
    found = json.loads(run("--json").stdout)
    assert found["resumed"] >= 8
    assert [finding["what"] for finding in found["findings"]] == ["files"]


SAVES = 'cd "$TMPDIR"; {stamp}; mkdir out; cp /etc/hostname out/b; echo saved'
STAMPS = {
    "another content": "date +%N >stamp",
    "another name": "mktemp -p . >/dev/null",
    "another name below": "n=$(date +%N); mkdir $n; date >$n/stamp",
}


@pytest.mark.parametrize("stamp", STAMPS.values(), ids=STAMPS)
def test_sweep_when_a_program_also_writes_what_changes_then_its_lost_file_is_found(harness, stamp):
    """One file that differed between two runs without faults had all others pass unseen."""
    result = swept(
        harness,
        ["sh", "-c", SAVES.format(stamp=stamp)],
        calls="mkdir",
        jobs=2,
        seconds=_SURELY_SECONDS,
    )
    last = [group for group in result.groups if "out" in group.detail]
    assert {group.what for group in last} == {"files"}
    assert all("missing" in group.detail for group in last)


HELPERS = """
import os, sys, time
r, w = os.pipe()
if not os.fork():
    os.close(w)
    os.read(r, 1)
    time.sleep(0.1)
    os._exit(0)
os.close(r)
try:
    pid = os.fork()
except OSError as error:
    sys.exit("cannot start: " + error.strerror)
if not pid:
    os._exit(0)
os.close(w)
os.wait()
os.wait()
"""


def test_sweep_when_helpers_end_soon_after_then_they_are_not_left_over(harness):
    """As rsync's do: they see the end of a pipe that only the end of their parent closes."""
    command = [sys.executable, "-I", "-S", "-c", HELPERS]
    result = swept(harness, command, calls="%process", modes=("once",), seconds=_SURELY_SECONDS)
    assert result.swept == {"once": 2}
    assert result.groups == []


def test_sweep_when_a_helper_stays_then_it_alone_is_left_over(harness):
    script = """
        sleep 1000 & stays=$!
        sh -c 'sleep 0.1' &
        /bin/true || exit 3
        kill $stays
    """
    result = swept(
        harness,
        ["sh", "-c", script],
        calls="vfork,fork,clone,clone3",
        modes=("once",),
        seconds=_SURELY_SECONDS,
    )
    left = {group.detail for group in result.groups if group.what == "leftover"}
    assert left == {"alive at its end: sleep"}


OPENS = """
import os, socket
open("/etc/hostname").close()
START
socket.socket().close()
os.close(os.pipe()[0])
"""


@pytest.mark.parametrize(
    ("start", "line"),
    [
        ("socket", ""),
        ("*/passwd", "open('/etc/passwd').close()"),
        ("mark", "os.system('exec env true kmem-start')"),
        ("mark", "os.access('.', 0) and None\ntry: open('kmem-start')\nexcept OSError: pass"),
    ],
)
def test_sweep_when_it_begins_at_a_moment_then_the_interpreter_s_start_is_left_alone(
    harness, start, line
):
    command = [sys.executable, "-I", "-S", "-c", OPENS.replace("START", line)]
    result = Sweep(
        Plan(modes=("once",), start=start, compares_output=False),
        BoxRuns(harness, command, _SURELY_SECONDS),
    ).go()
    calls = [site.syscall for site in result.sites if site.comm.startswith("python")]
    assert {"socket", "pipe2"} <= set(calls)
    assert sum(result.sites.values()) < 60
    assert ("openat" in calls) == (start == "*/passwd")


def test_sweep_when_it_begins_after_an_exec_then_who_executed_is_left_alone(harness):
    command = ["sh", "-c", 'cat /etc/hostname >/dev/null; exec mkdir "$TMPDIR/a"']
    result = Sweep(
        Plan(modes=("once",), start="exec", calls="mkdir", compares_output=False),
        BoxRuns(harness, command, _SURELY_SECONDS),
    ).go()
    assert [str(site) for site in result.sites] == ["mkdir (directory) by mkdir"]


def test_smallest_limit_when_the_command_needs_some_tasks_then_names_what_refused_below(harness):
    # Two children at once, of some 87 kB each.
    command = ["sh", "-c", "sleep 0.02 & sleep 0.02 & wait"]
    found = smallest_limit(harness, command, 1 << 16, 1 << 20)
    assert found.below == found.limit - 4096
    assert 1 << 16 < found.limit < 1 << 20
    assert found.refused
    assert "by sh" in found.refused[0]


def test_smallest_limit_when_even_the_highest_refuses_then_says_so(harness):
    with pytest.raises(ConfigurationError, match="give a higher HIGH"):
        smallest_limit(harness, ["sh", "-c", "sleep 0; exit 0"], 4096, 8192)
    with pytest.raises(ConfigurationError, match="exit 3"):
        smallest_limit(harness, ["sh", "-c", "exit 3"], 1 << 16, 1 << 20)
