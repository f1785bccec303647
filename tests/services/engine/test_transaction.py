"""What a request comes to: jobs pulled in, merged, dropped, or refused."""

from __future__ import annotations

import pytest

from kmem_harness.services.engine.relations import Relations
from kmem_harness.services.engine.rules import JobMode, JobType
from kmem_harness.services.engine.transaction import TransactionError, transaction_for


class Situation:
    """Units by name, in states of the test's choice, related as it says: ``"a requires b"``."""

    def __init__(self, *sentences: str, active: str = "", **states: str) -> None:
        self._relations = Relations({})
        self.states = states
        self.jobs: dict[str, JobType] = {}
        self.told: list[str] = []
        for one in active.split():
            self.states[one] = "active"
        for sentence in sentences:
            name, relation, other = sentence.split()
            for unit in (name, other):
                self._relations.after.setdefault(unit, set())
            if relation == "after":
                self._relations.after[name].add(other)
            else:
                self._relations.relate(name, relation, other)

    def active(self, unit):
        return self.states.get(unit, "inactive")

    def queued(self, unit):
        return self.jobs.get(unit)

    def related(self, unit, atom):
        return self._relations.towards(unit, atom)

    def after(self, unit):
        return self._relations.after.get(unit, set())

    def why_not(self, unit, job):
        return "it cannot" if job is JobType.RELOAD and unit.startswith("x") else ""

    def isolated(self):
        return [unit for unit in self._relations.after if not unit.startswith("slice")]

    def ask(self, request: str, mode: str = "replace") -> dict[str, str]:
        job, *units = request.split()
        found = transaction_for(
            self,
            [(JobType(job), unit) for unit in units],
            JobMode(mode),
            lambda unit, text: self.told.append(f"{unit}: {text}"),
        )
        return {unit: kind.value for unit, kind in sorted(found.items())}


def test_start_when_it_pulls_in_then_each_relation_does_its_own():
    units = Situation(
        "a requires b", "a wants c", "a binds_to d", "a upholds e", "a requisite f", "a part_of g"
    )
    assert units.ask("start a") == {
        **dict.fromkeys("abcde", "start"),
        "f": "verify-active",
    }


def test_start_when_conflicting_units_run_then_they_are_stopped_whoever_says_so():
    assert Situation("a conflicts b", active="b").ask("start a") == {"a": "start", "b": "stop"}
    assert Situation("b conflicts a", active="b").ask("start a") == {"a": "start", "b": "stop"}


def test_stop_when_others_need_it_then_they_stop_and_those_it_needs_stay():
    units = Situation(
        *(
            "a requires b",
            "c part_of b",
            "d binds_to b",
            "e requisite b",
            "f wants b",
            "b requires g",
        ),
        active="a b c d e f g",
    )
    assert units.ask("stop b") == dict.fromkeys("abcde", "stop")


def test_restart_when_others_need_it_then_those_that_run_are_restarted():
    units = Situation(
        *("a requires b", "c part_of b", "d binds_to b", "e requisite b", "f wants b"),
        active="a b c e f",
    )
    assert units.ask("restart b") == dict.fromkeys("abce", "restart")
    assert units.ask("try-restart d") == {}
    assert units.ask("try-restart c") == {"c": "restart"}


def test_stop_and_reload_when_propagated_then_they_reach_who_is_named():
    units = Situation(
        *("a propagates_stop_to b", "c stop_propagated_from a", "a propagates_reload_to d"),
        *("e reload_propagated_from a", "a propagates_reload_to f"),
        active="a b c d e",
    )
    assert units.ask("stop a") == dict.fromkeys("abc", "stop")
    assert units.ask("reload a") == dict.fromkeys("ade", "reload")


def test_what_only_is_wanted_when_it_conflicts_then_it_is_left_out_and_that_is_said():
    units = Situation("a wants b", "a requires c", "b conflicts c")
    assert units.ask("start a") == {"a": "start", "c": "start"}
    assert units.told


def test_what_is_asked_for_when_it_conflicts_then_the_transaction_is_refused():
    with pytest.raises(TransactionError, match="a conflicts with b"):
        Situation("a conflicts b").ask("start a b")
    with pytest.raises(TransactionError, match="c conflicts with b"):
        Situation("a requires b", "a requires c", "c conflicts b").ask("start a")


def test_circle_of_order_when_one_is_only_wanted_then_that_one_is_left_out():
    circle = ("a after b", "b after c", "c after a")
    units = Situation("a requires b", "a wants c", *circle)
    assert units.ask("start a") == {"a": "start", "b": "start"}
    assert "circle" in units.told[0]
    with pytest.raises(TransactionError, match=r"in a circle: \w before"):
        Situation("a requires b", "a requires c", *circle).ask("start a")


def test_job_mode_when_fail_then_nothing_queued_is_replaced_and_nothing_running_is_stopped():
    units = Situation("a conflicts b")
    units.jobs["b"] = JobType.START
    assert units.ask("start a") == {"a": "start", "b": "stop"}
    with pytest.raises(TransactionError, match="b has a start job queued"):
        units.ask("start a", "fail")
    lenient = Situation("a requires c", "b conflicts c", active="b")
    assert lenient.ask("start a", "fail") == {"a": "start", "c": "start"}


def test_job_mode_when_isolate_then_all_else_is_stopped():
    units = Situation("a requires b", "c wants d", "slice wants d", active="b c d slice")
    assert units.ask("start a", "isolate") == {"a": "start", "c": "stop", "d": "stop"}


def test_job_when_there_is_nothing_to_do_then_there_is_none():
    units = Situation("a requires b", active="a b")
    assert units.ask("start a") == {}
    assert Situation("a requires b").ask("stop a") == {}


def test_job_when_its_unit_cannot_have_it_then_that_is_said():
    with pytest.raises(TransactionError, match="x: a reload job is not possible: it cannot"):
        Situation("x wants y", active="x").ask("reload x")
