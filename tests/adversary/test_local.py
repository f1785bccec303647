"""No adversary ever has more than its limit admits, and whatever it does, the run ends well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kmem_harness.runtimes.local import ISOLATIONS, best_isolation, probe
from tests.adversary.counting import COUNTERS
from tests.adversary.roster import MEMCG, for_this_machine

if TYPE_CHECKING:
    from tests.adversary.roster import Adversary
    from tests.support.command_line import CommandLine
    from tests.support.programs import Programs

LIMIT = 20  # objects
NEARLY_ALL = 0.9 * LIMIT
RUNS = 20
ALL = [one for one in for_this_machine() if set(ISOLATIONS) & set(one.isolations)]


def by_name(adversary: Adversary) -> str:
    return adversary.name


def assert_held(
    adversary: Adversary,
    isolation: str,
    command_line: CommandLine,
    programs: Programs,
    around: int | None,
) -> None:
    if isolation not in adversary.isolations:
        pytest.skip("nothing to attack without a pid namespace")
    command = [str(programs[adversary.name]), str(adversary.nr_tries), *adversary.words]
    counted = COUNTERS[adversary.makes](
        command_line, command, LIMIT, ["--isolation", isolation, "--memcg", MEMCG], around
    )
    outcome = counted.outcome
    assert counted.most <= LIMIT, outcome
    assert outcome.kmem["max_usage"] <= outcome.kmem["limit"] == LIMIT * counted.each
    assert outcome.kmem["usage"] == 0
    assert all(kind["charged"] == kind["uncharged"] for kind in outcome.report["kinds"].values())
    assert not outcome.report["controller_died"]
    if outcome.status != 0:
        assert adversary.may_die, outcome
        return
    tally = outcome.tally()
    assert tally["first_errno"] in adversary.errnos
    assert adversary.prints.items() <= tally.items()
    if adversary.fills:
        assert counted.most >= NEARLY_ALL, "it never was at its limit, and so proves nothing"


@pytest.mark.parametrize("adversary", [one for one in ALL if one.quick], ids=by_name)
def test_adversary_when_limited_then_never_has_more_than_the_limit_admits(
    adversary: Adversary, command_line: CommandLine, programs: Programs, around: int | None
) -> None:
    assert_held(adversary, best_isolation(), command_line, programs, around)


@pytest.mark.slow
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("adversary", ALL, ids=by_name)
def test_adversary_when_run_again_and_again_then_never_has_more_than_the_limit_admits(
    adversary: Adversary,
    isolation: str,
    run: int,
    command_line: CommandLine,
    programs: Programs,
    around: int | None,
) -> None:
    assert run < RUNS
    reason = probe(isolation)
    if reason is not None:
        pytest.skip(f"isolation {isolation!r} cannot be had here: {reason}")
    assert_held(adversary, isolation, command_line, programs, around)
