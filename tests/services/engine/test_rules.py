"""How jobs go together, against the tables of systemd."""

from __future__ import annotations

import pytest

from kmem_harness.services.engine.rules import (
    PROPAGATION,
    Atom,
    JobType,
    collapsed,
    is_redundant,
    merged,
    must_wait,
)

#: As job.c has it; None stands for a contradiction.
START, VERIFY, STOP, RELOAD, RESTART = (
    *(JobType.START, JobType.VERIFY_ACTIVE, JobType.STOP, JobType.RELOAD, JobType.RESTART),
)
TABLE = {
    (VERIFY, START): START,
    (STOP, START): None,
    (STOP, VERIFY): None,
    (RELOAD, START): JobType.RELOAD_OR_START,
    (RELOAD, VERIFY): RELOAD,
    (RELOAD, STOP): None,
    (RESTART, START): RESTART,
    (RESTART, VERIFY): RESTART,
    (RESTART, STOP): None,
    (RESTART, RELOAD): RESTART,
}


@pytest.mark.parametrize("pair", TABLE, ids=lambda pair: f"{pair[0].value} {pair[1].value}")
def test_jobs_when_merged_then_it_is_as_systemds_table_has_it(pair):
    one, other = pair
    assert merged(one, other) is merged(other, one) is TABLE[pair]
    assert merged(one, one) is one
    assert merged(one, JobType.NOP) is merged(JobType.NOP, one) is one


@pytest.mark.parametrize("active", ["inactive", "failed", "deactivating", "active", "activating"])
def test_conditional_job_when_collapsed_then_the_state_decides(active):
    down = active in ("inactive", "failed", "deactivating")
    assert collapsed(JobType.TRY_RESTART, active) is (JobType.NOP if down else RESTART)
    assert collapsed(JobType.TRY_RELOAD, active) is (JobType.NOP if down else RELOAD)
    assert collapsed(JobType.RELOAD_OR_START, active) is (START if down else RELOAD)
    assert collapsed(STOP, active) is STOP


def test_restart_when_all_is_well_then_it_is_not_redundant():
    assert not is_redundant(RESTART, "active")
    assert is_redundant(START, "active")
    assert is_redundant(STOP, "failed")
    assert not is_redundant(STOP, "deactivating")
    assert not is_redundant(RELOAD, "active")


def test_jobs_when_ordered_then_up_goes_forward_and_down_goes_back():
    assert must_wait(START, START, is_after=True)
    assert not must_wait(START, START, is_after=False)
    assert must_wait(STOP, STOP, is_after=False)
    assert not must_wait(STOP, STOP, is_after=True)
    for is_after in (True, False):  # who goes down goes first
        assert must_wait(START, STOP, is_after=is_after)
    assert not must_wait(STOP, START, is_after=True)


def test_relations_when_each_is_looked_up_then_the_table_says_what_the_manual_does():
    def here(relation: str, atom: Atom) -> bool:
        return atom in PROPAGATION[relation].here

    def there(relation: str, atom: Atom) -> bool:
        return atom in PROPAGATION[relation].there

    stopped_with = {name for name in PROPAGATION if there(name, Atom.PROPAGATE_STOP)}
    assert stopped_with == {"requires", "requisite", "binds_to", "part_of", "stop_propagated_from"}
    restarted_with = {name for name in PROPAGATION if there(name, Atom.PROPAGATE_RESTART)}
    assert restarted_with == {"requires", "requisite", "binds_to", "part_of"}
    assert {name for name in PROPAGATION if here(name, Atom.PULL_IN_START)} == {
        "requires",
        "binds_to",
    }
    assert {name for name in PROPAGATION if here(name, Atom.PULL_IN_START_IGNORED)} == {
        "wants",
        "upholds",
    }
    assert there("binds_to", Atom.STOP_ON_UNEXPECTED_STOP)
    assert not there("requires", Atom.STOP_ON_UNEXPECTED_STOP)
