"""Looks in steps: none is long, whatever a process holds, and together they see the same."""

from __future__ import annotations

import mmap
import os
import resource
from contextlib import ExitStack

import pytest

from kmem_harness.procfs.descriptors import count_descriptors
from kmem_harness.procfs.memory_maps import measure, size_of
from kmem_harness.procfs.steps import AT_ONCE, in_steps, result_of, timed

MANY = 1_000


def counted(look):
    """Give what a look saw, and how many steps it took."""
    nr = 0
    while True:
        try:
            next(look)
        except StopIteration as done:
            return done.value, nr
        nr += 1


@pytest.fixture
def many_mappings():
    with ExitStack() as closing:
        for number in range(MANY):
            # Two alike beside each other would be one.
            access = mmap.PROT_READ if number % 2 else mmap.PROT_READ | mmap.PROT_WRITE
            closing.enter_context(mmap.mmap(-1, mmap.PAGESIZE, prot=access))
        yield


@pytest.fixture
def many_descriptors():
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ExitStack() as closing:
        closing.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (before, most))
        for _ in range(MANY):
            closing.callback(os.close, os.eventfd(0))
        yield


def test_measure_when_there_are_many_mappings_then_takes_many_steps_and_sees_all(many_mappings):
    before = size_of(os.getpid()).mappings
    size, steps = counted(measure(os.getpid()))
    assert size.mappings == pytest.approx(before, abs=2)
    assert size.mappings > MANY // 2
    # A line has some sixty bytes, and a hundred and more with the name of a file.
    assert steps >= size.mappings * 40 // 4096


def test_descriptors_when_there_are_many_then_take_a_step_for_every_few(many_descriptors):
    found, steps = counted(count_descriptors([os.getpid()], {}, frozenset()))
    assert found.kinds["anon-file"] >= MANY
    assert steps >= MANY // AT_ONCE


def test_in_steps_when_there_are_more_than_one_step_of_them_then_says_where_each_ends():
    ends = [item for item, ends_step in in_steps(range(3 * AT_ONCE)) if ends_step]
    assert ends == [AT_ONCE - 1, 2 * AT_ONCE - 1, 3 * AT_ONCE - 1]


def test_timed_when_others_come_between_then_leaves_their_time_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("kmem_harness.procfs.steps.time.monotonic", lambda: now[0])

    def look():
        for _ in range(3):
            now[0] += 1.0
            yield
        return "seen"

    took = []
    steps = timed(look(), took.append)
    for _ in range(3):
        next(steps)
        now[0] += 100.0
    assert result_of(steps) == "seen"
    assert sum(took) == 3.0
