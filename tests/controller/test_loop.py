"""The loop: descriptors, timers, and numbers that are given out again."""

from __future__ import annotations

import os
import select
import socket
import time
import weakref

import pytest

from kmem_harness.controller import loop as loop_module
from kmem_harness.controller.loop import Loop


class Listening:
    """One end of a pair of sockets, as the loop knows listeners."""

    def __init__(self) -> None:
        self.ends = socket.socketpair()
        self.fd = self.ends[0].fileno()
        self.told: list[bool] = []
        self.handed: list[tuple[int, ...]] = []
        self.ends[1].send(b"x")

    def wake_apart(self, *, apart: bool) -> None:
        self.told.append(apart)

    def take(self) -> bytes:
        return self.ends[0].recv(1, socket.MSG_DONTWAIT)

    def close(self) -> None:
        for end in self.ends:
            end.close()


def test_events_when_a_handler_closes_and_reuses_a_number_then_reach_only_their_own():
    loop = Loop()
    first, second = socket.socketpair(), socket.socketpair()
    heard = []

    def close_the_other(_):
        first[0].recv(1)
        number = second[0].fileno()
        loop.forget(number)
        second[0].close()
        os.dup2(quiet[0].fileno(), number)
        loop.watch(number, lambda _: heard.append("stale"))
        reused.append(number)
        loop.call_later(0.02, loop.stop)

    quiet, reused = socket.socketpair(), []
    loop.watch(first[0].fileno(), close_the_other)
    loop.watch(second[0].fileno(), lambda _: heard.append("second"))
    first[1].send(b"x")
    second[1].send(b"x")
    loop.run()
    assert heard == []
    loop = Loop()
    loop.watch(reused[0], lambda _: (heard.append("own"), loop.stop()))
    quiet[1].send(b"x")
    loop.run()
    assert heard == ["own"]
    for one in (*first, second[1], *quiet):
        one.close()
    os.close(reused[0])


def test_timers_when_due_then_run_in_order_of_time():
    loop = Loop()
    ran = []
    began = time.monotonic()
    loop.call_later(0.03, loop.stop)
    loop.call_later(0.02, lambda: ran.append("late"))
    loop.call_later(0.0, lambda: ran.append("now"))
    loop.call_later(0.01, lambda: loop.call_later(0, lambda: ran.append("nested")))
    loop.run()
    assert ran == ["now", "nested", "late"]
    assert 0.03 <= time.monotonic() - began < 1


def test_timer_when_cancelled_then_lets_go_of_its_action_at_once():
    loop = Loop()
    ran: list[str] = []

    class Known:
        def act(self) -> None:
            ran.append("cancelled")

    known = Known()
    timer = loop.call_later(0.01, known.act)
    gone = weakref.ref(known)
    del known
    assert gone() is not None
    timer.cancel()
    assert gone() is None
    loop.call_later(0.03, loop.stop)
    loop.run()
    assert ran == []


def test_jobs_when_they_take_long_then_everybody_is_served_between_their_steps(monkeypatch):
    monkeypatch.setattr(loop_module, "_JOB_TURNS", 2)
    loop = Loop()
    listening = Listening()
    order = []

    def job(name, steps):
        for _ in range(steps):
            end = time.monotonic() + 0.000_1  # more than one may take before others have their turn
            while time.monotonic() < end:
                pass
            order.append(name)
            yield
        order.append(f"{name} over")

    def hear(_):
        order.append("heard")
        if "a over" in order:
            loop.stop()

    loop.watch_listener(listening, hear)
    loop.spawn(job("a", 4))
    loop.spawn(job("b", 2))
    loop.run()
    alone = [name for name in order if name != "heard"]
    assert alone == ["a", "a", "b", "b", "a", "a", "b over", "a over"]
    assert "heard" in order[:3]
    listening.close()


def test_job_when_it_yields_a_list_then_waits_there_until_it_is_spawned_again():
    loop = Loop()
    awaiting, done = [], []

    def waits():
        yield awaiting
        done.append("waited")
        loop.stop()

    loop.spawn(waits())
    loop.call_later(0.01, lambda: (done.append(len(awaiting)), loop.spawn(awaiting.pop())))
    loop.run()
    assert done == [1, "waited"]


def test_listeners_when_three_call_together_then_are_told_and_told_again_when_one_is_left():
    loop = Loop()
    first, second, third, late = (Listening() for _ in range(4))
    late.take()
    served = 0

    def hear(_: int) -> None:
        nonlocal served
        served += 1
        if served == 3_000:
            second.take()
            third.take()
            loop.watch_listener(late, hear)
        elif served == 6_000:
            loop.stop()

    for one in (first, second, third):
        loop.watch_listener(one, hear)
    loop.run()
    assert first.told == second.told == third.told == late.told == [True, False]
    for one in (first, second, third, late):
        one.close()


@pytest.mark.parametrize("count", [1, 2])
def test_listeners_when_they_are_no_crowd_then_are_told_nothing(count):
    loop = Loop()
    listening = [Listening() for _ in range(count)]
    turns = iter(range(1_000))
    for one in listening:
        loop.watch_listener(one, lambda _: None if next(turns, None) is not None else loop.stop())
    loop.run()
    assert all(one.told == [] for one in listening)
    for one in listening:
        one.close()


class Answering:
    """What waits instead of the loop: hands each call of one listener over, and counts."""

    def __init__(self, others_fd, _):
        self.poll = select.poll()
        self.poll.register(others_fd, select.POLLIN)
        self.listeners = {}
        self.last_fd = -1

    def watch(self, listener):
        self.listeners[listener.fd] = listener
        self.poll.register(listener.fd, select.POLLIN)

    def forget(self, fd):
        del self.listeners[fd]
        self.poll.unregister(fd)

    def wait(self, patience_ms):
        ready = self.poll.poll(patience_ms)
        for fd, _ in ready:
            if fd in self.listeners:
                self.listeners[fd].handed.append(self.listeners[fd].take())
        return ready


def test_listener_when_its_call_was_taken_by_what_waits_then_is_served_once():
    loop = Loop()
    first, second = Listening(), Listening()
    heard = []

    def hear_first(_):
        heard.append(first.handed.pop())
        loop.call_later(0.02, loop.stop)

    loop.watch_listener(first, hear_first)
    waiting = loop.wait_by(Answering)
    loop.watch_listener(second, lambda _: heard.append(second.handed.pop()))
    loop.run()
    assert heard == [b"x", b"x"]
    loop.forget(first.fd)
    assert waiting.listeners == {second.fd: second}
    first.close()
    second.close()


class Polling(Answering):
    """One that has nothing to answer, and so gives everything to the loop."""

    def wait(self, patience_ms):
        return self.poll.poll(patience_ms)


def test_listeners_when_three_call_together_and_none_is_answered_elsewhere_then_are_told():
    loop = Loop()
    listening = [Listening() for _ in range(3)]
    served = []

    def hear(_):
        served.append(1)
        if len(served) == 3_000:
            loop.stop()

    loop.wait_by(Polling)
    for one in listening:
        loop.watch_listener(one, hear)
    loop.run()
    assert all(one.told == [True] for one in listening)
    for one in listening:
        one.close()


def test_loop_when_there_is_much_to_do_then_says_so_once():
    loop = Loop()
    told = []
    loop.when_busy(lambda: told.append(1))

    def go_on():
        turns.append(1)
        if len(turns) == 300:
            loop.stop()
        loop.call_later(0, go_on)

    turns = []
    go_on()
    loop.run()
    assert told == [1]
