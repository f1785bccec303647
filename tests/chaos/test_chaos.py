"""Several bombs at once, each with a fault of its own; then everything is as it was before."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.faults import FAULTS
from tests.e2e.conftest import programs
from tests.support.bombs import bomb_command
from tests.support.command_line import CommandLine, find_parts
from tests.support.peak import NamespacePeak, descendants, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.programs import Programs

__all__ = ["programs"]

STACK = 8192
LIMIT = 30  # tasks
NOT_CHARGED = 2  # init and target
AT_ONCE = 4
ROUNDS = 125  # of the long form: 500 faults
GONE_SECONDS = 5.0
BOMBS = ["tree", "vfork", "threads", "rawclone-mixed"]


class Run:
    """One bomb under the command line, with a fault to come."""

    def __init__(self, fault: str, bomb: str, programs: Programs) -> None:
        """Start it."""
        self.fault = FAULTS[fault]
        self.directory = Path(tempfile.mkdtemp(prefix="kmem-chaos-"))
        self.command_line = CommandLine(self.directory)
        options = ["--kernel", "v4", "--kmem-limit", str(LIMIT * STACK), "--pids-max", "200"]
        if self.fault.events:
            options += ["--events", f"/dev/{self.fault.events}"]
        # Interrupted as from outside: a terminal would reach all of us.
        self.process = self.command_line.start(
            bomb_command(bomb, programs, 1), *options, start_new_session=True
        )
        self.parts = find_parts(self.process)
        where = {"init" if self.parts.has_namespace else "root": self.parts.init}
        self.watch = NamespacePeak(**where)

    def suffer(self) -> None:
        """Have the fault, once the bomb burns."""
        with suppress(TimeoutError):  # a bomb of threads is one process
            until(lambda: len(descendants(self.parts.init)) > LIMIT / 3, 0.5, "it does not burn")
        self.family = [self.process.pid, *descendants(self.process.pid)]
        with suppress(ProcessLookupError):  # on a busy machine the second may be over
            self.fault.inflict(self.parts)

    def judge(self) -> None:
        """See that it ended well: within its limit, with its report, and with nothing left."""
        outcome = self.command_line.finish(self.process)
        assert self.watch.stop().peak - NOT_CHARGED <= LIMIT
        assert outcome.status in self.fault.statuses or outcome.status == 0, outcome
        assert bool(outcome.report) >= self.fault.reports, outcome
        if outcome.report:
            kmem = outcome.kmem
            assert kmem["max_usage"] <= kmem["limit"]
            assert kmem["usage"] == 0 or outcome.report["controller_died"]
            lost = outcome.report["events_lost"]
            assert lost == (outcome.report["refusals"]["total"] if self.fault.events else 0)
        until(lambda: not any(map(_lives, self.family)), GONE_SECONDS, "processes are left")
        until(lambda: not self.command_line.leftovers(), GONE_SECONDS, "files are left")

    def clear(self) -> None:
        """End what a failed judgement may have left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        shutil.rmtree(self.directory, ignore_errors=True)


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def one_round(faults: list[str], chance: random.Random, programs: Programs) -> None:
    runs: list[Run] = []
    try:
        for fault in faults:
            runs.append(Run(fault, chance.choice(BOMBS), programs))
            runs[-1].watch.__enter__()
        for run in runs:
            run.suffer()
        for run in runs:
            run.judge()
    finally:
        for run in runs:
            run.clear()


def _rounds(chance: random.Random) -> Iterator[list[str]]:
    """Give all faults in turn, shuffled anew each time."""
    waiting: list[str] = []
    while True:
        while len(waiting) < AT_ONCE:
            waiting += chance.sample(list(FAULTS), len(FAULTS))
        yield [waiting.pop() for _ in range(AT_ONCE)]


@pytest.mark.parametrize(
    "faults",
    [
        ["controller killed", "nothing", "disk of the events full"],
        ["command line killed", "controller stopped", "descriptors taken away"],
    ],
    ids=", ".join,
)
def test_bombs_when_each_has_a_fault_then_hold_report_and_leave_nothing(
    faults: list[str], programs: Programs
) -> None:
    one_round(faults, random.Random(1), programs)  # noqa: S311 - the same each time


@pytest.mark.slow
def test_bombs_when_five_hundred_faults_come_then_hold_report_and_leave_nothing(
    programs: Programs,
) -> None:
    seed = int(os.environ.get("KMEM_CHAOS_SEED", "1"))
    chance = random.Random(seed)  # noqa: S311 - to be had again
    for number, faults in zip(range(ROUNDS), _rounds(chance), strict=False):
        sys.stderr.write(f"seed {seed}, round {number}: {faults}\n")  # shown if it fails
        one_round(faults, chance, programs)
