"""Objects of every kind: as many as a real kernel admitted, seen when freed, and none to be hidden."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmem_harness.core.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.command_line import CommandLine, Outcome
    from tests.support.programs import Programs

ORACLE = Path(__file__).parents[2].parent / "shared" / "oracle" / "linux-5.10"
#: By the recordings' names; a real kernel's page tables are filled by faults, which nothing gates.
CLIFFS = [
    *("fork-pause", "fork-exec", "pthread", "open-file", "pipe", "unix-socket", "tcp-socket"),
    *("eventfd", "mmap-vma", "mkdir-flat-tmpfs", "mkdir-chain-tmpfs"),
    *("mkdir-chain-ext4", "create-ext4", "negative-lookup-ext4", "fdtable-dup2"),
]
CHURNS = {
    "fork": 50 * 87_233,
    "open": 50 * 264,
    "pipe": 50 * 2_576,
    "socket": 50 * 2_400,
    "create": 50 * 1_664,
    "mkdir": 50 * 1_522,
    "mmap": 50 * 208,
}
#: What one object that is really kept costs at least, by trick.
TRICKS = {
    "in-message": 2_576,
    "mapped-memfd": 1_192 + 208,
    "memfd-opened-again": 264,
    "pipe-opened-again": 264,
    "unlinked-and-open": 928 + 264,
    "unlinked-and-mapped": 928 + 264 + 208,
    "renamed": 928,
    "removed-in-vain": 928,
    "removed-directory-held": 928 + 264,
    "duplicated": 264,
    "in-shared-table": 264,
    "left-to-child": 87_233,
}
#: Of a process, so much is in no price: the first process was made outside.
FIRST_PROCESS = 25 * 208


def is_tmpfs(path: str) -> bool:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(where, kind) for where, kind in mounts if path.startswith(where)]
    # In a chroot the file system of the root itself may not be listed.
    return max(above, key=lambda mount: len(mount[0]), default=("", ""))[1] == "tmpfs"


def directory_on(system: str) -> Path:
    """Make a directory on a tmpfs, or on a disk, wherever there is one."""
    places = ["/dev/shm", tempfile.gettempdir(), str(Path.home()), os.getcwd()]  # noqa: PTH109
    for place in places:
        if os.access(place, os.W_OK) and is_tmpfs(place) == (system == "tmpfs"):
            return Path(tempfile.mkdtemp(prefix="kmem-objects-", dir=place))
    pytest.skip(f"no writable directory on a {system} among {', '.join(places)}")


def remove(directory: Path) -> None:
    """Take away what may be thousands of levels deep."""
    subprocess.run(["rm", "-rf", str(directory)], check=True)


@pytest.fixture
def somewhere() -> Iterator[Callable[[str], Path]]:
    """Give a function that makes a directory on a tmpfs or a disk; it is gone after the test.

    One test at a time: a file system does not say whose its inodes are, so what another worker's
    test makes there at the same moment may be taken for this one's.
    """
    with ExitStack() as each:
        alone = each.enter_context(
            Path(tempfile.gettempdir(), f"kmem-objects-{os.geteuid()}.lock").open("w")
        )
        fcntl.flock(alone, fcntl.LOCK_EX)

        def make(system: str) -> Path:
            directory = directory_on(system)
            each.callback(remove, directory)
            return directory

        yield make


def assert_books_balance(outcome: Outcome) -> None:
    kmem = outcome.kmem
    assert kmem["max_usage"] <= kmem["limit"]
    assert kmem["usage"] == 0
    for kind in outcome.report["kinds"].values():
        assert kind["charged"] == kind["uncharged"]


def recorded(workload: str, limit: str) -> tuple[int, set[str]]:
    """Give how many objects a real kernel made under *limit*, and the errnos it ever gave."""
    file = ORACLE / f"cliff-{workload}.json"
    if not file.exists():
        pytest.skip(f"no recordings in {ORACLE.name}")
    data = json.loads(file.read_text())
    runs = [*data["runs"], *data.get("repeats", [])]
    errnos = {run["errno"] for run in runs} | {
        errno for run in runs for errno in run.get("next_100") or {}
    }
    (objects,) = {run["objects"] for run in data["runs"] if run["limit_text"] == limit}
    # A child whose fault waits for ever was made, and the next one is refused.
    return objects, (errnos | ({"ENOMEM"} if "STUCK" in errnos else set())) - {"STUCK", "ok"}


@pytest.mark.parametrize(
    "limit",
    ["1M", pytest.param("4M", marks=pytest.mark.slow), pytest.param("16M", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("workload", CLIFFS)
def test_objects_when_limit_is_met_then_as_many_as_on_a_real_kernel(
    workload: str,
    limit: str,
    command_line: CommandLine,
    programs: Programs,
    somewhere: Callable[[str], Path],
) -> None:
    name, _, system = workload.rpartition("-")
    where: list[str] = []
    if system in ("tmpfs", "ext4"):
        where = [str(somewhere("tmpfs" if system == "tmpfs" else "disk"))]
    else:
        name = workload
    objects, errnos = recorded(workload, limit)
    command = [str(programs["objects"]), name, "200000", *where]
    on_request = ("--kinds", "dentry") if name == "negative-lookup" else ()
    limits = ("--kernel", "5.10", "--kmem-limit", limit)
    outcome = command_line.run(command, *limits, *on_request)
    tally = outcome.tally()
    if tally["errno"] in ("EMFILE", "other"):
        pytest.skip("this host allows too few descriptors (ulimit -Hn) to get there")
    share = 0.2 if name == "create" else 0.1
    assert int(tally["objects"]) == pytest.approx(objects, rel=share)
    assert tally["errno"] in errnos
    assert_books_balance(outcome)


@pytest.mark.parametrize("cycles", [2_000, pytest.param(200_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("what", "system"),
    [*((what, "tmpfs") for what in CHURNS), ("create", "disk"), ("mkdir", "disk")],
)
def test_churn_when_limit_has_room_for_fifty_then_frees_are_seen_and_nothing_is_refused(
    what: str,
    system: str,
    cycles: int,
    command_line: CommandLine,
    programs: Programs,
    somewhere: Callable[[str], Path],
) -> None:
    command = [str(programs["churn"]), what, str(cycles), str(somewhere(system))]
    # A busy disk takes a millisecond for each directory.
    patience = 60 + cycles / 1000
    outcome = command_line.run(command, "--kmem-limit", str(CHURNS[what]), patience=patience)
    assert outcome.tally() == {"done": str(cycles), "failures": "0", "first_errno": "none"}
    assert outcome.report["refusals"]["total"] == 0
    assert_books_balance(outcome)


@pytest.mark.parametrize(("what", "kind"), [("pipe", "pipe"), ("socket", "unix-socket")])
def test_churn_when_its_kind_alone_is_charged_then_frees_are_seen(
    what: str, kind: str, command_line: CommandLine, programs: Programs
) -> None:
    """Without files among the kinds nobody looked at descriptors, and nothing was ever freed."""
    command = [str(programs["churn"]), what, "1000"]
    outcome = command_line.run(command, "--kinds", kind, "--kmem-limit", str(CHURNS[what]))
    assert outcome.status == 0, outcome
    assert outcome.tally() == {"done": "1000", "failures": "0", "first_errno": "none"}
    assert outcome.report["kinds"][kind]["charged"] == 1000


@pytest.mark.parametrize(
    ("trick", "system"),
    [
        *((trick, "tmpfs") for trick in TRICKS),
        *((trick, "disk") for trick in TRICKS if trick.startswith(("unlinked", "re"))),
    ],
)
def test_objects_when_made_to_look_freed_then_no_more_are_kept_than_the_limit_admits(
    trick: str,
    system: str,
    command_line: CommandLine,
    programs: Programs,
    somewhere: Callable[[str], Path],
) -> None:
    command = [str(programs["shed"]), trick, "200000", str(somewhere(system))]
    outcome = command_line.run(command, "--kmem-limit", "1M")
    tally = outcome.tally()
    assert tally["errno"] in ("ENOMEM", "ENFILE", "ENOSPC")
    assert int(tally["alive"]) * TRICKS[trick] <= parse_size("1M") + FIRST_PROCESS
    assert_books_balance(outcome)


def test_peak_when_a_load_is_repeated_then_is_the_same_within_a_hundredth(
    command_line: CommandLine, programs: Programs
) -> None:
    command = [str(programs["objects"]), "pipe", "2000"]
    peaks = [command_line.run(command, "--kmem-limit", "16M").kmem["max_usage"] for _ in range(2)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.01)
    assert peaks[0] == pytest.approx(2000 * 2_576, rel=0.02)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount in a box")
@pytest.mark.parametrize(
    "own",
    # A box's mounts are private already, and in a chroot the root is none to be made so.
    [(), ("unshare", "--mount", "--propagation", "unchanged")],
    ids=["for all", "for itself"],
)
def test_names_when_made_on_a_mount_of_the_targets_own_then_are_no_escape(
    own: tuple[str, ...],
    command_line: CommandLine,
    programs: Programs,
    somewhere: Callable[[str], Path],
) -> None:
    where = somewhere("tmpfs")
    script = f"mount -t tmpfs none {where} && {programs['objects']} mkdir-flat 5000 {where}"
    outcome = command_line.run([*own, "sh", "-c", script], "--kmem-limit", "1M")
    assert outcome.tally()["errno"] == "ENOMEM"
    assert int(outcome.tally()["objects"]) * 928 <= parse_size("1M")
    assert not outcome.report["partial"]


WATCHES = """
import os, resource, select
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
watching, (reader, _), n = select.epoll(), os.pipe(), 0
try:
    while True:
        watching.register(os.dup(reader))
        n += 1
except OSError as error:
    print(f"objects={n} errno={error.errno}")
"""


# Recorded on 5.10; each watch is of another descriptor, whose table grows along.
@pytest.mark.parametrize(
    ("limit", "recorded"), [("1M", 4_212), pytest.param("4M", 17_160, marks=pytest.mark.slow)]
)
def test_watches_when_each_is_of_another_descriptor_then_the_table_counts_too(
    limit: str, recorded: int, command_line: CommandLine
) -> None:
    outcome = command_line.run([sys.executable, "-c", WATCHES], "--kmem-limit", limit)
    tally = outcome.tally()
    if int(tally["errno"]) == errno.EMFILE:
        pytest.skip("this host allows too few descriptors (ulimit -Hn) to get there")
    assert int(tally["objects"]) == pytest.approx(recorded, rel=0.1)
    assert outcome.report["kinds"]["descriptor-table"]["charged"] > 0
