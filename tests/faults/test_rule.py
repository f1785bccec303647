"""The grammar of fault rules: what is read, and what is said about what cannot be."""

from __future__ import annotations

import errno

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.faults import calls
from kmem_harness.faults.rule import expand, parse_rule, parse_rules


@pytest.mark.parametrize(
    ("when", "hit"),
    [
        ("3", [3]),
        ("3+", [3, 4, 5, 6, 7, 8]),
        ("2+3", [2, 5, 8]),
        ("2..4", [2, 3, 4]),
        ("1..7+3", [1, 4, 7]),
        ("1+", [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_when_when_written_as_strace_does_then_names_the_same_calls(when, hit):
    rule = parse_rule(f"socket:error=ENOMEM:when={when}")
    assert [number for number in range(1, 9) if rule.wants(number)] == hit


def test_when_when_left_out_then_names_every_call():
    rule = parse_rule("socket:error=ENOMEM")
    assert all(rule.wants(number) for number in range(1, 100))


def test_rule_when_whole_then_every_part_is_there():
    rule = parse_rule(
        "socket,%process:error=EAGAIN:when=2+:comm=server:path=/x*:prob=0.5:seed=7:then=recover"
        ":delay_enter=10ms"
    )
    assert rule.syscalls == {"socket", "clone", "clone3", "fork", "vfork"}
    assert (rule.error, rule.error_name) == (errno.EAGAIN, "EAGAIN")
    assert (rule.comm, rule.path, rule.prob, rule.seed) == ("server", "/x*", 0.5, 7)
    assert (rule.then, rule.delay_seconds) == ("recover", 0.01)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250", 250e-6), ("250us", 250e-6), ("1.5ms", 1.5e-3), ("2s", 2.0)]
)
def test_delay_when_written_with_a_unit_or_none_then_is_in_seconds(text, seconds):
    assert parse_rule(f"fork:delay_enter={text}").delay_seconds == pytest.approx(seconds)


def test_kind_when_it_is_the_set_then_its_makers_are_the_calls():
    rule = parse_rule("kind=thread:error=EAGAIN")
    assert rule.syscalls == {"clone"}
    assert rule.kinds == {"thread"}


def test_kind_when_no_charge_makes_it_then_its_makers_are_found_all_the_same():
    assert "mmap" in parse_rule("kind=vma:error=ENOMEM").syscalls


def test_charge_when_it_is_the_set_then_is_every_call_that_makes_an_object():
    rule = parse_rule("charge:error=ENOMEM:when=7")
    assert {"clone", "openat", "socket", "mkdir", "pipe2"} <= rule.syscalls
    assert not {"write", "unlink", "mmap", "newfstatat"} & rule.syscalls


def test_groups_when_listed_then_hold_only_calls_that_can_be_failed():
    for group in calls.GROUPS.values():
        assert group <= calls.injectable()


@pytest.mark.parametrize(
    ("text", "part", "remedy"),
    [
        ("sockt:error=ENOMEM", "sockt", "did you mean socket"),
        ("read:error=EIO", "read", "can be failed here"),
        ("socket:error=ENOMEN", "error=ENOMEN", "did you mean ENOMEM"),
        ("socket:error=0", "error=0", "name one"),
        ("socket:error=ENOMEM:when=0", "when=0", "count from 1"),
        ("socket:error=ENOMEM:when=1+0", "when=1+0", "count from 1"),
        ("socket:error=ENOMEM:when=5..3", "when=5..3", "write when=3..5"),
        ("socket:error=ENOMEM:when=x", "when=x", "FIRST..LAST"),
        ("socket:error=ENOMEM:when=", "when=", "when=VALUE"),
        ("socket:error=ENOMEM:wen=1", "wen=1", "known are error="),
        ("socket:error=ENOMEM:error=EIO", "error=EIO", "keep one"),
        ("socket:retval=0", "retval=0", "error=ERRNO"),
        ("socket:delay_exit=1ms", "delay_exit=1ms", "delay_enter"),
        ("socket:delay_enter=1h", "delay_enter=1h", "10ms"),
        ("socket:delay_enter=61s", "delay_enter=61s", "at most 60s"),
        ("socket:error=ENOMEM:prob=2", "prob=2", "prob=0.1"),
        ("socket:error=ENOMEM:prob=0.5:seed=x", "seed=x", "seed=1"),
        ("socket:error=ENOMEM:seed=1", "", "give prob=P"),
        ("socket:error=ENOMEM:then=die", "then=die", "then=recover"),
        ("socket:error=ENOMEM:when=1..2:then=persist", "", "leave out one"),
        ("socket:error=ENOMEM:kind=sock", "kind=sock", "known are"),
        ("socket:error=ENOMEM:kind=task", "kind=task", "name one that does"),
        ("socket:error=ENOMEM:comm=a-name-too-long-for-it", "comm=", "comm=a-name-too-long"),
        ("socket", "", "error=ERRNO"),
        ("socket:count:error=EIO", "", "every rule counts"),
        (":error=ENOMEM", "", "names no call"),
        ("", "", "names no call"),
    ],
)
def test_rule_when_it_cannot_be_read_then_error_names_rule_part_and_remedy(text, part, remedy):
    with pytest.raises(ConfigurationError) as raised:
        parse_rule(text)
    message = str(raised.value)
    assert repr(text) in message
    assert part in message
    assert remedy in message


@pytest.mark.parametrize("rules", ["socket:error=ENOMEM", [3]])
def test_rules_when_they_are_no_list_of_texts_then_says_so(rules):
    with pytest.raises(ConfigurationError, match="text"):
        parse_rules(rules)


def test_named_rule_when_parts_are_added_then_they_beat_its_own():
    named = {"no-sockets": "socket,socketpair:error=ENOBUFS:when=2+"}
    assert expand("no-sockets", named) == "socket,socketpair:error=ENOBUFS:when=2+"
    assert (
        expand("no-sockets:when=3:comm=a", named) == "socket,socketpair:error=ENOBUFS:when=3:comm=a"
    )
    assert expand("socket:error=EIO", named) == "socket:error=EIO"
