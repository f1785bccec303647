"""What the rules of one box do, call by call."""

from __future__ import annotations

import pytest

from kmem_harness.faults.rule import parse_rules
from kmem_harness.faults.schedule import Schedule

NUMBERS = {"socket": 41, "openat": 257, "clone": 56, "mkdir": 83}
THREAD = 0x10000


def play(rules, calls, comm="server", path="/x"):
    """Judge *calls*, names or (name, first argument); give the schedule and what each came to."""
    schedule = Schedule(parse_rules(rules), NUMBERS)
    done = []
    for call in calls:
        name, first = call if isinstance(call, tuple) else (call, 0)
        verdict = schedule.judge(NUMBERS[name], (first, 0, 0), lambda: comm, lambda: path)
        failing = verdict.failing if verdict else None
        done.append(failing.rule.error_name if failing else None)
    return schedule, done


def failed(rules, calls, **more):
    return [number for number, name in enumerate(play(rules, calls, **more)[1], 1) if name]


def test_count_when_a_rule_names_two_calls_then_both_count_together():
    assert failed(
        ["socket,openat:error=ENOMEM:when=3"], ["socket", "openat", "openat", "socket"]
    ) == [3]


def test_rules_when_two_fit_then_both_count_and_the_first_that_fails_it_wins():
    schedule, done = play(
        ["socket:error=ENOMEM:when=2", "socket:error=EIO:when=2+"], ["socket"] * 3
    )
    assert done == [None, "ENOMEM", "EIO"]
    assert [armed.matched for armed in schedule.armed] == [3, 3]
    assert [armed.failed for armed in schedule.armed] == [1, 1]


def test_comm_when_it_differs_then_the_call_does_not_count():
    assert failed(["socket:error=ENOMEM:when=1:comm=server"], ["socket"]) == [1]
    schedule, done = play(["socket:error=ENOMEM:when=1:comm=client"], ["socket"])
    assert done == [None]
    assert schedule.armed[0].matched == 0


def test_kind_when_arguments_make_another_then_the_call_does_not_count():
    calls = ["clone", ("clone", THREAD), "clone", ("clone", THREAD)]
    assert failed(["clone:error=EAGAIN:kind=thread:when=2"], calls) == [4]


def test_path_when_it_does_not_fit_then_is_counted_and_decides_nothing():
    schedule, done = play(["openat:error=EIO:path=/etc/*"], ["openat"], path="/tmp/x")
    assert done == ["EIO"]
    assert schedule.report()["rules"][0]["path_matched"] == 0


def test_then_when_recover_or_persist_then_the_rule_ends_or_stays_with_its_first_hit():
    calls = ["socket"] * 4
    assert failed(["socket:error=ENOMEM:when=2+:then=recover"], calls) == [2]
    assert failed(["socket:error=ENOMEM:when=2:then=persist"], calls) == [2, 3, 4]


def test_seed_when_the_same_then_the_same_calls_fail():
    calls = ["socket"] * 200
    first = failed(["socket:error=ENOMEM:prob=0.2:seed=5"], calls)
    assert first == failed(["socket:error=ENOMEM:prob=0.2:seed=5"], calls)
    assert first != failed(["socket:error=ENOMEM:prob=0.2:seed=6"], calls)
    assert 15 < len(first) < 70


def test_seed_when_none_is_given_then_the_one_drawn_is_told_and_does_the_same_again():
    calls = ["socket"] * 200
    schedule, done = play(["socket:error=ENOMEM:prob=0.2"], calls)
    assert play([schedule.report()["rules"][0]["rule"]], calls)[1] == done


def test_delay_when_a_rule_fails_the_call_too_then_both_are_done():
    schedule = Schedule(
        parse_rules(["socket:delay_enter=5ms", "socket:delay_enter=20ms:error=EIO"]), NUMBERS
    )
    verdict = schedule.judge(41, (0,) * 6, lambda: "", lambda: None)
    assert verdict.delay_seconds == pytest.approx(0.02)
    assert verdict.failing is schedule.armed[1]
    assert [armed.delayed for armed in schedule.armed] == [1, 1]


def test_report_when_calls_were_tried_then_tells_charges_and_calls():
    schedule, _ = play(["socket,mkdir:count"], ["socket", "socket", "mkdir"])
    report = schedule.report()
    assert report["charges"] == 3
    assert report["tried"] == {"socket": 2, "mkdir": 1}
