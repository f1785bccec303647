"""What is gone is not charged, however hard a box makes it to see that."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine

PROGRAM = Path(__file__).parents[1] / "programs" / "one_at_a_time.py"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do that in a box")


def refused(
    command_line: CommandLine, cause: str, what: str, cycles: int, where: Path, *options: str
) -> str:
    command = [sys.executable, str(PROGRAM), cause, what, str(cycles), str(where)]
    outcome = command_line.run(command, "--kmem-limit", "1M", *options, patience=60 + cycles / 500)
    assert outcome.tally().keys() == {"refused"}, outcome
    return outcome.tally()["refused"]


@needs_root
@pytest.mark.parametrize("cycles", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cause", ["own mounts", "own users and mounts", "short-lived mounts"])
def test_names_when_a_process_has_mounts_of_its_own_then_those_that_are_gone_are_not_charged(
    cause: str, cycles: int, command_line: CommandLine, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    assert refused(command_line, cause, "name", cycles, tmp_path) == "0"


@needs_root
def test_names_when_their_file_system_is_unmounted_then_are_not_charged(
    command_line: CommandLine, tmp_path: Path
) -> None:
    script = f"""
for each in 1 2 3 4 5 6 7 8 9 10 11 12; do
    mount -t tmpfs none {tmp_path}
    for name in $(seq 100); do : > {tmp_path}/$name; done
    umount {tmp_path}
done
"""
    outcome = command_line.run(["sh", "-e", "-c", script], "--kmem-limit", "1M")
    assert (outcome.status, outcome.report["refusals"]["total"]) == (0, 0), outcome


@pytest.mark.parametrize("cycles", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["name", "file", "socket", "pair", "pipe"])
def test_objects_when_a_socket_is_in_a_message_then_those_that_are_gone_are_not_charged(
    what: str, cycles: int, command_line: CommandLine, tmp_path: Path
) -> None:
    assert refused(command_line, "in flight", what, cycles, tmp_path) == "0"


@pytest.mark.parametrize("cause", ["in a backlog", "own tables", "mapped", "short-lived"])
def test_objects_when_something_else_holds_some_then_those_that_are_gone_are_not_charged(
    cause: str, command_line: CommandLine, tmp_path: Path
) -> None:
    assert refused(command_line, cause, "socket", 2_000, tmp_path) == "0"


@pytest.mark.parametrize("cycles", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["name", "file", "socket", "mapping"])
@pytest.mark.parametrize("cause", ["undumped", "undumped itself"])
def test_objects_when_a_process_is_not_dumpable_then_those_that_are_gone_are_not_charged(
    cause: str, what: str, cycles: int, command_line: CommandLine, tmp_path: Path
) -> None:
    """As root nothing hides; as a user without namespaces such a process does, but for its figures."""
    isolation = () if os.geteuid() == 0 else ("--isolation", "none")
    assert refused(command_line, cause, what, cycles, tmp_path, *isolation) == "0"


@pytest.mark.parametrize("cause", ["undumped", "in flight", "own users"])
def test_processes_when_something_cannot_be_seen_then_those_that_are_gone_are_not_charged(
    cause: str, command_line: CommandLine, tmp_path: Path
) -> None:
    assert refused(command_line, cause, "process", 200, tmp_path) == "0"


#: Let go of each object where nobody can look for it: it is there all the same.
HIDE = """
import ctypes, errno, mmap, os, socket, sys
what = sys.argv[1]
sender, receiver = socket.socketpair()
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.setblocking(False)
if what == "nested":
    socket.send_fds(sender, [b"."], [other.fileno()])
    other.close()
else:
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
n = 0
kept = []
try:
    while n < 20000:
        if what == "nested":  # a datagram of no bytes, at a socket that is in a message
            fd = os.eventfd(0)
            try:
                socket.send_fds(one, [b""], [fd])
            except BlockingIOError:
                break
            os.close(fd)
        elif what == "mapped":
            fd = os.open("/etc/passwd", os.O_RDONLY)
            kept.append(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
            os.close(fd)
        else:
            kept.append(socket.socket(socket.AF_UNIX))
            os.close(os.open("/", os.O_RDONLY))
        n += 1
except OSError:
    pass
print(f"kept={n}", flush=True)
"""


@pytest.mark.parametrize(
    ("what", "nbytes"), [("nested", 464), ("mapped", 264 + 208), ("socket", 2_400)]
)
def test_objects_when_they_are_kept_out_of_sight_then_no_more_than_the_limit_admits(
    what: str, nbytes: int, command_line: CommandLine
) -> None:
    isolation = () if os.geteuid() == 0 else ("--isolation", "none")
    command = [sys.executable, "-c", HIDE, what]
    outcome = command_line.run(command, "--kmem-limit", "1M", *isolation)
    assert 0 < int(outcome.tally()["kept"]) * nbytes <= (1 << 20) + 25 * 208
