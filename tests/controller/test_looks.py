"""Looks at what targets chose: answered at once or later, late ones at the cost of who asked."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import pytest

from kmem_harness.controller.audit.looks import Looks
from kmem_harness.controller.loop import Loop
from kmem_harness.procfs.look_process import READ_MEMORY, Request
from tests.controller.looking import children, run_until

TEXT = ctypes.create_string_buffer(b"what stands there")


def request(address=None, length=16):
    where = ctypes.addressof(TEXT) if address is None else address
    return Request(READ_MEMORY, os.getpid(), where, length)


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def looks(loop):
    before = children()
    looks = Looks(loop)
    yield looks
    looks.close()
    run_until(loop, lambda: children() <= before)


@pytest.fixture
def asker(looks):
    return looks.enter(lambda: None)


def test_memory_when_read_then_is_given_by_the_loop(loop, looks, asker):
    seen = []
    looks.read_memory(asker, os.getpid(), ctypes.addressof(TEXT), 16, seen.append)
    looks.read_memory(asker, os.getpid(), ctypes.addressof(TEXT) + 5, 6, seen.append)
    assert not seen
    run_until(loop, lambda: len(seen) == 2)
    assert seen == [b"what stands ther", b"stands"]


@pytest.mark.parametrize("address", [0, 8, (1 << 47) + 5, (1 << 64) - 1])
def test_memory_when_there_is_none_then_nothing_is_given(address, loop, looks, asker):
    seen = []
    looks.read_memory(asker, os.getpid(), address, 16, seen.append)
    run_until(loop, lambda: seen)
    assert seen == [b""]
    assert not asker.late


def test_look_when_it_takes_no_time_then_its_answer_is_there(looks, asker):
    assert ready(looks, asker).text == b"what stands ther"


def ready(looks, asker):
    """Give an answer once the process that looks is up, and quick enough on this machine."""
    end = time.monotonic() + 10
    while (answer := looks.look(asker, request())) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
        looks._hear()
    return answer


def stop(looks):
    """Keep the process that looks from answering, as a silent file server would."""
    ready(looks, looks.enter(lambda: None))
    process = looks._process
    os.kill(process.pid, signal.SIGSTOP)
    return process


def test_look_when_it_is_kept_then_costs_everybody_next_to_nothing(loop, looks):
    late, seen = [], []
    asker, other = (
        looks.enter(lambda: late.append("one")),
        looks.enter(lambda: late.append("other")),
    )
    stop(looks)
    began = time.monotonic()
    assert looks.look(asker, request(), seen.append) is None
    assert looks.look(other, request(), lambda answer: seen.append(answer.text)) is None
    assert time.monotonic() - began < 0.05
    run_until(loop, lambda: len(seen) == 2)
    assert time.monotonic() - began < 1.0
    assert seen == [None, b"what stands ther"]
    assert late == ["one"]
    assert ready(looks, other).text == b"what stands ther"


def test_looks_when_two_of_one_asker_were_late_then_it_may_have_no_more(loop, looks, asker):
    for number in range(2):
        seen = []
        stop(looks)
        looks.ask(asker, request(), seen.append)
        run_until(loop, lambda seen=seen: seen)
        assert seen == [None]
        assert asker.late == number + 1
    assert looks.look(asker, request()) is None
    seen = []
    looks.ask(asker, request(), seen.append)
    assert not seen  # the loop says so
    run_until(loop, lambda: seen)
    assert ready(looks, looks.enter(lambda: None))


def test_looks_when_their_process_is_ended_by_somebody_then_another_one_looks(loop, looks, asker):
    for _ in range(3):
        os.kill(looks._running().pid, signal.SIGKILL)
        seen = []
        looks.read_memory(asker, os.getpid(), ctypes.addressof(TEXT), 4, seen.append)
        run_until(loop, lambda seen=seen: seen)
        assert seen == [b"what"]
    assert not asker.late


def test_looks_when_there_is_no_process_to_be_had_then_say_so(loop, looks, asker, monkeypatch):
    monkeypatch.setattr("kmem_harness.procfs.look_process.PROGRAM", "/nonexistent")
    assert looks.look(asker, request()) is None
    seen = []
    looks.ask(asker, request(), seen.append)
    run_until(loop, lambda: seen)
    assert seen == [None]


def test_asker_when_it_has_left_then_is_told_nothing_more(loop, looks, asker):
    seen = []
    looks.ask(asker, request(), seen.append)
    looks.leave(asker)
    again = looks.enter(lambda: None)
    assert again.number == asker.number
    looks.ask(again, request(), lambda answer: seen.append(answer.text[:4]))
    run_until(loop, lambda: seen)
    assert seen == [b"what"]


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may look into it")
def test_process_that_looks_when_started_then_holds_nothing_but_its_socket(looks, asker):
    assert ready(looks, asker)
    held = os.listdir(f"/proc/{looks._process.pid}/fd")  # noqa: PTH208
    assert sorted(held) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{looks._process.pid}/fd/2") == os.devnull  # noqa: PTH115
