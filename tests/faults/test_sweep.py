"""The engine of sweeps, on a made-up program: what is run, what is found, how it is shrunk."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.faults.common import common_of
from kmem_harness.faults.outcome import Outcome, Site, judge
from kmem_harness.faults.rule import parse_rules
from kmem_harness.faults.schedule import Schedule
from kmem_harness.faults.state import SweepState
from kmem_harness.faults.sweep import Plan, Sweep

NUMBERS = {"openat": 257, "socket": 41, "pipe2": 293}
CALLS = ["openat", "socket", "openat", "pipe2", "socket"]


class Program:
    """Makes CALLS under the rules it is given; *ends* says how, of the calls that failed."""

    def __init__(self, ends, calls=CALLS):
        self.ends = ends
        self.calls = calls
        self.rules = []
        self._lock = threading.Lock()

    def __call__(self, rules):
        with self._lock:
            self.rules += rules
        schedule = Schedule(parse_rules(rules), NUMBERS)
        failed = []
        for at, name in enumerate(self.calls):
            if NUMBERS[name] not in schedule.calls:
                continue
            verdict = schedule.judge(NUMBERS[name], (0, 0, 0), lambda: "server", lambda: None)
            if verdict is not None:
                failed.append((at, name, schedule.tried[NUMBERS[name]]))
        return Outcome(
            **{"status": 0, "output": "a", **self.ends([at for at, _, _ in failed])},
            charges=schedule.armed[0].matched,
            failed=len(failed),
            site=Site("server", failed[0][1], failed[0][1]) if failed else None,
            nth=failed[0][2] if failed else 0,
        )


def fine(failed):
    return {"status": 1 if failed else 0}


def swept(program, **plan):
    return Sweep(Plan(**plan), program).go()


def test_sweep_when_every_failure_is_told_then_finds_nothing_and_runs_each_charge_once():
    program = Program(fine)
    result = swept(program, modes=("once",))
    assert result.groups == []
    assert result.swept == {"once": 5}
    assert program.rules == [
        *["charge:count"] * 2,
        *[f"charge:error=ENOMEM:when={number}" for number in range(1, 7)],
    ]
    assert {str(site): runs for site, runs in result.sites.items()} == {
        "openat by server": 2,
        "socket by server": 2,
        "pipe2 by server": 1,
    }


@pytest.mark.parametrize("jobs", [1, 3])
def test_sweep_when_one_call_is_unchecked_then_names_it_by_its_own_number(jobs):
    program = Program(lambda failed: {"signal": 11, "status": 139} if 4 in failed else fine(failed))
    result = swept(program, jobs=jobs)
    (group,) = [group for group in result.groups if group.site.syscall == "socket"]
    assert (group.what, group.detail) == ("crash", "SIGSEGV")
    assert group.rule == "socket:error=ENOMEM:when=2"
    assert group.marker == '@pytest.mark.kmem_fault("socket:error=ENOMEM:when=2")'
    assert group.reproduced
    assert ("once", 5) in group.runs
    assert result.swept == {"once": 5, "persist": 5}


def test_sweep_when_only_a_lasting_failure_hangs_then_the_shortest_row_of_charges_is_found():
    def ends(failed):
        return {"timed_out": True} if len([at for at in failed if at in (1, 2, 3)]) == 3 else {}

    (group, *_) = swept(Program(ends), modes=("persist",), compares_output=False).groups
    assert group.what == "hang"
    assert group.rule in ("charge:error=ENOMEM:when=1..4", "charge:error=ENOMEM:when=2..4")
    again = Program(ends)((group.rule,))
    assert again.timed_out


def test_sweep_when_one_call_has_to_fail_for_good_then_its_rule_says_just_that():
    def ends(failed):
        return {"timed_out": True} if {1, 4} <= set(failed) else fine(failed)

    result = swept(Program(ends), modes=("persist",))
    assert "socket:error=ENOMEM" in {group.rule for group in result.groups}


def test_sweep_when_max_is_reached_then_says_that_there_was_more():
    result = swept(Program(fine), max=2, jobs=2)
    assert result.swept == {"once": 2, "persist": 2}
    assert result.cut_short == ["once", "persist"]


def test_sweep_when_the_command_fails_by_itself_then_is_refused():
    with pytest.raises(ConfigurationError, match="fails already: exit 3"):
        swept(Program(lambda _: {"status": 3}), exits=frozenset({0}))


def test_sweep_when_its_output_changes_by_itself_then_output_is_not_compared():
    outputs = iter("abcdefghijklmnopqrstuvwxyz")
    result = swept(Program(lambda _: {"output": next(outputs)}), modes=("once",))
    assert not result.common.output
    assert result.groups == []


def test_sweep_when_some_charges_are_skipped_then_begins_after_them():
    program = Program(fine)
    result = swept(program, modes=("once",), skip=2, max=2, compares_output=False)
    assert program.rules == [
        "charge:count",
        "charge:error=ENOMEM:when=3",
        "charge:error=ENOMEM:when=4",
    ]
    assert result.swept == {"once": 2}
    assert result.cut_short == ["once"]


def test_sweep_when_it_begins_at_a_call_then_what_came_before_is_left_alone():
    calls = ["openat", "openat", "socket", "pipe2"]
    result = swept(Program(fine, calls), modes=("once",), start="socket")
    assert {str(site) for site in result.sites} == {"socket by server", "pipe2 by server"}
    with pytest.raises(ConfigurationError, match="no charge came after 'socket'"):
        swept(Program(fine, ["openat"]), start="socket")


def test_sweep_when_a_file_changes_from_second_to_second_then_no_finding_stands_on_it():
    """Two runs without a fault in one second wrote the same time of day."""
    began = time.monotonic()

    def ends(_):
        return {"files": {"stamp": str(int(time.monotonic() - began > 0.5)), "kept": "1"}}

    program = Program(ends)
    slow = Sweep(Plan(modes=("once",)), lambda rules: time.sleep(0.1) or program(rules))
    result = slow.go()
    assert result.groups == []
    assert result.common.changing == ("stamp",)
    assert set(result.common.files) == {"kept"}


def test_plan_when_it_cannot_be_used_then_says_what_is_wrong():
    with pytest.raises(ConfigurationError, match="did you mean socket"):
        Plan(calls="sockt")
    with pytest.raises(ConfigurationError, match="mode 'twice'"):
        Plan(modes=("twice",))
    with pytest.raises(ConfigurationError, match="max=0"):
        Plan(max=0)
    with pytest.raises(ConfigurationError, match="skip=-1"):
        Plan(skip=-1)
    with pytest.raises(ConfigurationError, match=r"from=sockt.*did you mean socket"):
        Plan(start="sockt")


# -- going on from where it was broken off ---------------------------------------------------


def test_state_when_a_sweep_was_broken_off_then_finished_runs_are_not_run_again(tmp_path):
    path = str(tmp_path / "state.jsonl")
    left = [9]

    def breaks_off(failed):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return {"status": 0, "signal": 6} if 3 in failed else fine(failed)

    first = SweepState(path, {"command": ["x"]})
    with pytest.raises(KeyboardInterrupt):
        Sweep(Plan(), Program(breaks_off), state=first).go()
    first.close()
    with Path(path).open("a") as file:
        file.write('{"mode": "persist", "num')
    left[0] = 1000
    second = SweepState(path, {"command": ["x"]})
    program = Program(breaks_off)
    result = Sweep(Plan(), program, state=second).go()
    second.close()
    assert result.resumed == 8
    assert program.rules[0] == "charge:error=ENOMEM:when=1+"
    whole = Sweep(Plan(), Program(breaks_off)).go()
    assert [(one.what, one.site, one.runs, one.rule) for one in result.groups] == [
        (one.what, one.site, one.runs, one.rule) for one in whole.groups
    ]
    third = Sweep(Plan(), Program(breaks_off), state=SweepState(path, {"command": ["x"]})).go()
    assert third.resumed == 14


def test_state_when_the_file_is_of_another_sweep_then_is_refused(tmp_path):
    path = str(tmp_path / "state.jsonl")
    SweepState(path, {"command": ["x"]}).close()
    with pytest.raises(ConfigurationError, match="of another sweep"):
        SweepState(path, {"command": ["y"]})


# -- what is wrong with a run ----------------------------------------------------------------

NORMAL = Outcome(0, holds={"file": 3}, others=(), output="a", files={"x": "1"})


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        (Outcome(1, holds={"file": 9}, others=(), output="b"), []),
        (Outcome(139, others=()), ["exit"]),
        (Outcome(129, others=()), []),
        (Outcome(254, others=()), []),
        (Outcome(139, signal=11), ["crash"]),
        (Outcome(137, signal=9, timed_out=True), ["hang"]),
        (Outcome(1, holds={"file": 3}, others=("sleep",)), ["leftover"]),
        (Outcome(0, holds={"file": 4}, others=(), output="a", files={"x": "1"}), ["leak"]),
        (Outcome(0, holds={"file": 3}, others=(), output="b", files={"x": "1"}), ["output"]),
        (Outcome(0, holds={"file": 3}, others=(), output="a", files={"x": "2"}), ["files"]),
        (Outcome(0, failure="assert 1 == 2"), ["failed"]),
        (NORMAL, []),
    ],
)
def test_judge_when_a_run_went_so_then_finds(outcome, found):
    common = common_of([NORMAL, NORMAL])
    assert [finding.what for finding in judge(outcome, NORMAL, None, common)] == found


def test_judge_when_exit_codes_are_named_then_others_are_findings():
    assert judge(Outcome(2), NORMAL, frozenset({0, 1}))[0].detail == "exit 2"
    assert judge(Outcome(1), NORMAL, frozenset({0, 1})) == []
