"""A victim's latency, alone and beside: measured from when a request was due."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.experiments import Request, assert_isolated
from kmem_harness.experiments.isolation import complaint
from kmem_harness.experiments.probe import Latency, ask, measure, summarise, wait_for


def latency(p99, failures=0):
    return Latency(samples=100, failures=failures, p50=p99 / 2, p99=p99, longest=p99)


@pytest.mark.parametrize(
    ("alone", "beside", "wrong"),
    [
        (latency(0.010), latency(0.020), ""),
        (latency(0.010), latency(0.021), "p99 21.00 ms beside the aggressor, 10.00 ms alone"),
        (latency(0.0001), latency(0.001), ""),  # a multiple of next to nothing is nothing
        (latency(0.010), latency(0.010, 3), "failed 3 of 100 requests beside the aggressor"),
        (latency(0.010, 1), latency(0.010), "failed 1 of 100 requests alone"),
    ],
)
def test_complaint_when_latencies_differ_then_judges_by_factor_and_slack(alone, beside, wrong):
    found = complaint("web", alone, beside, factor=2, slack=0.001)
    assert wrong in found
    assert bool(wrong) == bool(found)


def test_assert_isolated_when_the_aggressor_disturbs_then_fails_with_the_figures():
    slow = threading.Event()

    @contextlib.contextmanager
    def aggressor():
        slow.set()
        yield
        slow.clear()

    def victim():
        if slow.is_set():
            time.sleep(0.05)

    with pytest.raises(AssertionError, match=r"the victim: p99 .* ms beside the aggressor"):
        assert_isolated(victim, aggressor, p99="2x", seconds=0.3)
    assert not slow.is_set()
    assert_isolated(victim, contextlib.nullcontext, p99=1000, seconds=0.1, slack=1)


def test_assert_isolated_when_factor_is_none_then_says_how_to_write_one():
    with pytest.raises(ConfigurationError, match="'fast' is no factor from 1 on; write \"2x\""):
        assert_isolated(lambda: None, contextlib.nullcontext, p99="fast")


def test_measure_when_one_answer_is_late_then_all_that_were_due_meanwhile_are():
    calls = []

    def stall_once():
        calls.append(None)
        if len(calls) == 1:
            time.sleep(0.2)

    found = measure(stall_once, seconds=0.3, period=0.01)
    assert found.samples >= 30
    assert found.p50 > 0.005  # two thirds were due while the first was not answered
    assert found.longest >= 0.2


def test_measure_when_requests_raise_then_counts_them():
    assert measure(lambda: 1 / 0, seconds=0.05, period=0.01).failures >= 1


def test_summarise_when_sorted_then_takes_the_99th_percentile():
    found = summarise([number / 1000 for number in range(1, 201)], 2)
    assert (found.samples, found.failures, found.p50, found.p99, found.longest) == (
        200,
        2,
        0.101,
        0.199,
        0.2,
    )
    assert summarise([], 0).p99 == 0


@pytest.mark.parametrize(
    ("code", "expect", "wrong"),
    [
        ("print('fine')", "fine", ""),
        ("print('well')", "fine", "without 'fine'"),
        ("import sys; sys.exit('broken')", "", "exited with 1: broken"),
    ],
)
def test_ask_when_a_command_answers_then_its_status_and_words_count(code, expect, wrong):
    request = Request(command=(sys.executable, "-I", "-S", "-c", code), expect=expect)
    found = ask(request, 30)
    assert wrong in found
    assert bool(wrong) == bool(found)


def test_ask_when_nobody_listens_or_answers_wrongly_then_says_so():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer():
            connection, _ = server.accept()
            connection.sendall(b"NO")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert "answered b'NO', without 'YES'" in ask(Request(tcp=address, expect="YES"))
        thread.join()
    assert "refused" in ask(Request(tcp=address, expect="YES"))


def test_wait_for_when_it_never_comes_true_then_gives_up_in_time_or_at_once():
    never = Request(command=("false",), within=0.2)
    began = time.monotonic()
    assert "exited with 1" in wait_for(never, lambda: True)
    assert time.monotonic() - began >= 0.2
    asked = []
    assert wait_for(Request(command=("false",), within=60), lambda: asked.append(None)) != ""
    assert len(asked) == 1
