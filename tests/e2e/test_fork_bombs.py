"""No fork bomb ever has more tasks alive than its limit admits: counted from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.bombs import BOMBS, COMPILED_BOMBS, bomb_command
from tests.support.box_peak import measure_box

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine
    from tests.support.programs import Programs

STACK = 8192
LIMITS = [30, 100, 60]  # tasks
#: A bomb that multiplies without end gets nearly all there is, though some calls are refused in
#: doubt while many processes fork at once.
NEARLY_ALL = 0.9
#: Each bomb once, the limits in turn.
QUICK = [(bomb, LIMITS[at % len(LIMITS)]) for at, bomb in enumerate(BOMBS)]
THOROUGH = [(bomb, limit) for bomb in BOMBS for limit in LIMITS]
RUNS = 10


def assert_contained(
    bomb: str, limit: int, command_line: CommandLine, programs: Programs, around: int | None
) -> None:
    options = ["--kernel", "v4", "--kmem-limit", str(limit * STACK)]
    command = bomb_command(bomb, programs, 1)
    measured = measure_box(command_line, command, *options, around=around)
    outcome = measured.outcome
    assert measured.most <= limit
    # A walk through a tree misses the orphans of a shell's bomb: there the harness must do as witness
    # of how many there were, but never of there having been no more.
    live_peak = sum(kind["live_peak"] for kind in outcome.report["kinds"].values())
    reached = measured.most if measured.is_sure else live_peak
    assert reached >= NEARLY_ALL * limit
    assert outcome.kmem["max_usage"] <= outcome.kmem["limit"] == limit * STACK
    assert outcome.kmem["usage"] == 0
    assert outcome.report["refusals"]["total"] > 0
    assert all(kind["charged"] == kind["uncharged"] for kind in outcome.report["kinds"].values())
    assert outcome.status == 0, outcome.stderr
    if bomb in COMPILED_BOMBS:
        # pthread_create has no ENOMEM to give: libc makes it EAGAIN.
        assert outcome.tally()["first_errno"] == ("EAGAIN" if bomb == "threads" else "ENOMEM")


@pytest.mark.parametrize(("bomb", "limit"), QUICK)
def test_bomb_when_limited_then_never_has_more_tasks_than_the_limit_admits(
    bomb: str, limit: int, command_line: CommandLine, programs: Programs, around: int | None
) -> None:
    assert_contained(bomb, limit, command_line, programs, around)


@pytest.mark.slow
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize(("bomb", "limit"), THOROUGH)
def test_bomb_when_limited_ten_times_then_never_has_more_tasks_than_the_limit_admits(
    bomb: str,
    limit: int,
    run: int,
    command_line: CommandLine,
    programs: Programs,
    around: int | None,
) -> None:
    assert run < RUNS
    assert_contained(bomb, limit, command_line, programs, around)
