"""Whether any task of the host was made or has ended since a look."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

from kmem_harness.procfs.stillness import Stillness

TRIES = 1000


@pytest.fixture
def stillness():
    made = Stillness()
    if not made._now():
        pytest.skip("this is not the host's own pid namespace, where last pids tell of all births")
    yield made
    made.close()


def held(stillness):
    """Look, until nobody else on this host was made or has ended meanwhile."""
    for _ in range(TRIES):
        stillness.about_to_look()
        stillness.looked()
        if stillness._held:
            return
    pytest.fail("this host never stands still")


def test_stillness_when_nothing_was_looked_at_then_does_not_last(stillness):
    assert not stillness.lasts()


def test_stillness_when_nothing_happens_then_lasts(stillness):
    for _ in range(TRIES):
        held(stillness)
        if stillness.lasts():
            return
    pytest.fail("this host never stands still")


@contextmanager
def a_child():
    """Have a child as long as this lasts."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(writer)
        os.waitpid(child, 0)
        os.close(reader)


def test_stillness_when_a_child_is_made_then_is_over(stillness):
    held(stillness)
    with a_child():
        assert not stillness.lasts()


def test_stillness_when_a_child_ends_then_is_over(stillness):
    with a_child():
        held(stillness)
    assert not stillness.lasts()


def test_stillness_when_a_child_has_come_and_gone_then_is_over(stillness):
    held(stillness)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert not stillness.lasts()


def test_stillness_when_something_happens_during_the_look_then_does_not_last(stillness):
    stillness.about_to_look()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    stillness.looked()
    assert not stillness.lasts()
