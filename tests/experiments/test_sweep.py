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


def swept(harness, command, **plan):
    # Of Python's own start, files alone would be failed: the long form does that.
    if command[0] == sys.executable:
        plan.setdefault("calls", "socket")
    return Sweep(Plan(**plan), BoxRuns(harness, command, _HANGS_AFTER_SECONDS)).go()


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
