"""The timeline of a box: bounded, in order, and never without the peak."""

from __future__ import annotations

import random

import pytest

from kmem_harness.controller.account import timeline as module
from kmem_harness.controller.account.timeline import LONGEST, Timeline


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves on."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

        def time(self):
            return 1_700_000_000.0

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_timeline_when_short_then_gives_each_point_as_noted(clock):
    timeline = Timeline()
    for number, usage in enumerate((0, 8192, 16384, 0)):
        clock.now = 1000 + number / 4
        timeline.note(usage, number // 3, (usage // 8192, 0))
    assert timeline.report(["task", "thread"]) == {
        "began": 1_700_000_000.0,
        "seconds": [0, 0.25, 0.5, 0.75],
        "usage": [0, 8192, 16384, 0],
        "refused": [0, 0, 0, 1],
        "live": {"task": [0, 1, 2, 0]},
    }


def test_timeline_when_nothing_was_noted_then_is_empty(clock):
    report = Timeline().report(["task"])
    assert (report["seconds"], report["usage"], report["live"]) == ([], [], {})


@pytest.mark.parametrize("seed", range(5))
def test_timeline_when_run_is_long_then_is_bounded_and_keeps_peak_first_and_last(clock, seed):
    chance = random.Random(seed)  # noqa: S311
    timeline = Timeline()
    usages = [chance.randrange(1, 1 << 30) for _ in range(20_000)]
    for usage in usages:
        clock.now += chance.choice((0.000_001, 0.001, 0.3))
        timeline.note(usage, 0, (usage,))
    clock.now += 0.000_001
    timeline.note(0, 7, (0,), last=True)
    report = timeline.report(["task"])
    assert LONGEST // 2 <= len(report["seconds"]) <= LONGEST
    assert report["seconds"] == sorted(report["seconds"])
    assert max(report["usage"]) == max(usages)
    assert report["usage"][0] == usages[0]
    assert (report["usage"][-1], report["refused"][-1]) == (0, 7)
    assert report["usage"] == report["live"]["task"]


def test_timeline_when_level_then_keeps_the_two_ends(clock):
    timeline = Timeline()
    for _ in range(10_000):
        clock.now += 1
        timeline.note(8192, 0, (1,))
    timeline.note(0, 0, (0,))
    report = timeline.report(["task"])
    assert report["seconds"] == [1, 10_000, 10_000]
    assert report["usage"] == [8192, 8192, 0]
