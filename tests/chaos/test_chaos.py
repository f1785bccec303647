"""Ten boxes at once, each with a fault of its own; then everything is as it was before."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.group import Group
from tests.chaos.run import Run
from tests.chaos.watched import GONE_SECONDS
from tests.e2e.conftest import command_line, programs
from tests.support.leftovers import procfs_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command_line import CommandLine
    from tests.support.programs import Programs

__all__ = ["command_line", "programs"]

AT_ONCE = 10
#: Of the long form; fewer at a time, with another seed each, come to the same.
FAULTS_IN_ALL = int(os.environ.get("KMEM_CHAOS_FAULTS", "500"))
PLAIN_RUNS = 10
SHARED = [name for name, fault in FAULTS.items() if fault.whose == "all"]
OWN = [name for name, fault in FAULTS.items() if fault.whose == "box"]


def one_round(
    runs: list[Run | Group], command_line: CommandLine
) -> Iterator[tuple[list[str], float]]:
    """Have all *runs* suffer at once; give the faults and the seconds to the end of each."""
    mounts = procfs_mounts()
    with ExitStack() as each, ThreadPoolExecutor(len(runs)) as threads:
        for run in runs:
            each.callback(run.clear)
        list(threads.map(lambda run: run.start(), runs))
        for run in runs:
            run.begin()
        list(threads.map(lambda run: run.suffer(), runs))
    assert procfs_mounts() <= mounts
    began = time.monotonic()
    after = command_line.run(["sh", "-c", "true & wait"], "--kernel", "v4", "--kmem-limit", "1M")
    assert after.status == 0
    assert after.report["kinds"]["task"]["charged"] == 1
    # On a machine so busy that a plain run takes its time, others may, too.
    patience = max(GONE_SECONDS, PLAIN_RUNS * (time.monotonic() - began))
    for run in runs:
        assert run.seconds <= patience
        yield run.faults, run.seconds


def in_turn(names: list[str], chance: random.Random) -> Iterator[str]:
    """Give all of them, shuffled anew each time."""
    while True:
        yield from chance.sample(names, len(names))


@pytest.mark.parametrize(
    "faults",
    [
        ["controller killed", "nothing", "disk of the events full", "shim killed"],
        ["owner killed", "controller stopped", "descriptors taken away", "event reader killed"],
        ["memory taken away", "top stopped", "event reader stopped", "shim stopped"],
    ],
    ids=", ".join,
)
def test_runs_when_each_has_a_fault_then_hold_report_and_leave_nothing(
    faults: list[str], programs: Programs, command_line: CommandLine
) -> None:
    chance = random.Random(1)  # noqa: S311 - the same each time
    runs: list[Run | Group] = [Run(fault, programs, chance) for fault in faults]
    assert len(list(one_round(runs, command_line))) == len(faults)


@pytest.mark.parametrize(
    ("own", "shared"),
    [
        (["guard killed", "nothing", "event reader stopped", "init stopped"], "controller stopped"),
        (["nothing", "init killed", "disk of the events full"], "owner killed"),
    ],
    ids=str,
)
def test_boxes_of_one_controller_when_each_has_a_fault_then_hold_report_and_leave_nothing(
    own: list[str], shared: str, programs: Programs, command_line: CommandLine
) -> None:
    chance = random.Random(2)  # noqa: S311
    (one,) = one_round([Group(own, shared, programs, chance)], command_line)
    assert one[0] == [*own, shared]


@pytest.mark.slow
def test_boxes_when_five_hundred_faults_come_then_hold_report_and_leave_nothing(
    programs: Programs, command_line: CommandLine
) -> None:
    """Ten command lines, and then ten boxes of one controller, in turn."""
    seed = int(os.environ.get("KMEM_CHAOS_SEED", "1"))
    chance = random.Random(seed)  # noqa: S311 - to be had again
    of_runs, of_boxes = in_turn(list(FAULTS), chance), in_turn(OWN, chance)
    of_groups = in_turn(SHARED, chance)
    seconds: dict[str, list[float]] = defaultdict(list)
    number = 0
    while sum(map(len, seconds.values())) < FAULTS_IN_ALL:
        runs: list[Run | Group] = (
            [Run(next(of_runs), programs, chance) for _ in range(AT_ONCE)]
            if number % 2 == 0
            else [
                Group([next(of_boxes) for _ in range(AT_ONCE)], next(of_groups), programs, chance)
            ]
        )
        sys.stderr.write(f"seed {seed}, round {number}: {[run.faults for run in runs]}\n")
        for faults, took in one_round(runs, command_line):
            for fault in faults:
                seconds[fault].append(took)
        number += 1
    for fault, all_took in sorted(seconds.items()):
        sys.stderr.write(f"{fault}: {len(all_took)} times, the longest end {max(all_took):.2f} s\n")
