"""Processes that have ended and wait to be reaped: charged for what is left of them, and no less."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from kmem_harness.core.sizes import parse_size

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine

#: Each child has ended before the next one is made, as *often* as it goes.
PILE = """
import errno, os, sys
n, often = 0, int(sys.argv[1])
try:
    while n < often:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        n += 1
    outcome = "none"
except OSError as error:
    outcome = errno.errorcode[error.errno]
print(f"objects={n} errno={outcome}")
"""
#: A process whose leader ends, and whose other thread sleeps: no zombie, whatever its state says.
HEADLESS = """
import ctypes, os, sys, threading, time
n = 0
try:
    while n < 200:
        pid = os.fork()
        if not pid:
            try:
                threading.Thread(target=time.sleep, args=(60,)).start()
            finally:
                ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
        stat = "R"
        while stat[0] != "Z":
            time.sleep(0.001)
            stat = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
        if int(stat[17]) < 2:
            break
        n += 1
except (OSError, RuntimeError):
    pass
print(f"objects={n}")
"""
TASK, THREAD, ZOMBIE = 87_233, 25_320, 11_776


# Linux 5.10.262 in a virtual machine, by the same program: 82, 171, 349 and 705 under 1M to 8M.
@pytest.mark.parametrize(
    ("limit", "admitted"),
    [("1M", 82), ("4M", 349), pytest.param("8M", 705, marks=pytest.mark.slow)],
)
def test_zombies_when_limit_is_met_then_as_many_as_on_a_real_kernel(
    limit: str, admitted: int, command_line: CommandLine
) -> None:
    outcome = command_line.run([sys.executable, "-c", PILE, "2000"], "--kmem-limit", limit)
    tally = outcome.tally()
    assert tally["errno"] == "ENOMEM"
    assert int(tally["objects"]) == pytest.approx(admitted, rel=0.1)
    kinds = outcome.report["kinds"]
    assert kinds["zombie"]["live_peak"] * ZOMBIE <= parse_size(limit)
    assert kinds["zombie"]["bytes_each"] == ZOMBIE
    for row in kinds.values():
        assert row["charged"] == row["uncharged"] >= row["live_peak"]
    assert outcome.kmem["max_usage"] <= outcome.kmem["limit"]


def test_zombies_when_there_are_three_hundred_then_four_mebibytes_suffice(
    command_line: CommandLine,
) -> None:
    outcome = command_line.run([sys.executable, "-c", PILE, "300"], "--kmem-limit", "4M")
    assert outcome.tally() == {"objects": "300", "errno": "none"}
    assert outcome.report["refusals"]["total"] == 0


def test_zombies_when_the_kernel_keeps_their_stacks_then_cost_what_processes_cost(
    command_line: CommandLine,
) -> None:
    """Until Linux 4.9 a stack stayed until its task was reaped (K90)."""
    command = [sys.executable, "-c", PILE, "2000"]
    outcome = command_line.run(command, "--kmem-limit", "1M", "--kernel", "v4")
    assert outcome.tally() == {"objects": "128", "errno": "ENOMEM"}
    assert "zombie" not in outcome.report["kinds"]


def test_zombies_when_only_the_leader_of_a_process_has_ended_then_it_counts_as_alive(
    command_line: CommandLine,
) -> None:
    outcome = command_line.run([sys.executable, "-c", HEADLESS], "--kmem-limit", "4M")
    assert int(outcome.tally()["objects"]) * (TASK + THREAD) <= parse_size("4M")
    assert outcome.report["kinds"].get("zombie", {"live_peak": 0})["live_peak"] <= 1
