"""The soak in a few seconds, and its arithmetic: what it would say of one that grew."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.soak.picture import draw
from tests.soak.run import Sample, Soak, soak
from tests.soak.verdict import MEGABYTE, judge, minutes
from tests.soak.windows import Window, parse_window
from tests.support.programs import Programs, find_compiler, why_no_compiler

SECONDS = 6.0


def test_soak_when_run_for_seconds_then_books_are_exact_and_nothing_grows(tmp_path):
    compiler = find_compiler()
    if compiler is None:
        pytest.skip(why_no_compiler())
    tmp_path.chmod(0o777)
    program = str(Programs(tmp_path / "programs", compiler)["soak"])
    told = []
    seen = soak(
        program,
        str(tmp_path),
        seconds=SECONDS,
        calls=2_000,
        rate=2_000,
        tick=0.1,
        tell=lambda _: told.append(1),
    )
    # Who else is at work here now decides on latencies: those are the long form's.
    rows = judge(seen, stretch=SECONDS / 4, latency=False)
    assert [row for row in rows if not row.held] == []
    assert seen.calls >= 2_000
    assert seen.passing == len(told) > 5
    assert sum(report["notifications"] for report in seen.reports) >= seen.calls


@pytest.fixture
def seen() -> Soak:
    """Ten minutes of a soak that holds."""
    kind = {"charged": 5, "uncharged": 5}
    kmem = {"usage": 0, "max_usage": 10, "limit": 10}
    report = {"memcg": {"kmem": kmem}, "kinds": {"task": kind}, "refusals": {"total": 1}}
    return Soak(
        seconds=600.0,
        windows=[Window(float(at), 100, 1, Counter({160: 99, 200: 1})) for at in range(601)],
        samples=[Sample(float(at), 20 * MEGABYTE, 20, MEGABYTE) for at in range(602)],
        reports=[report],
        usage={"kmem": 0, "memory": 0},
        passing=600,
    )


def lost(seen: Soak) -> list[str]:
    return [row.what for row in judge(seen, stretch=60.0) if not row.held]


def test_judge_when_nothing_grew_then_every_promise_held(seen):
    assert lost(seen) == []


def test_judge_when_memory_or_descriptors_grew_then_says_so(seen):
    last = seen.samples[-1]
    seen.samples[-61:-1] = [
        replace(
            last, seconds=last.seconds - 60 + at, resident=last.resident + MEGABYTE, descriptors=22
        )
        for at in range(60)
    ]
    assert lost(seen) == ["memory of the controller, bytes", "its descriptors"]


def test_judge_when_something_is_still_charged_then_says_so(seen):
    seen.usage["memory"] = 8
    seen.reports[0]["kinds"]["task"]["uncharged"] = 4
    assert lost(seen) == ["usage at the end", "charged and not uncharged"]


def test_judge_when_the_last_minute_is_slower_then_says_so(seen):
    for window in seen.windows[-65:]:
        window.histogram = Counter({166: 100})  # a third slower: as promised
    assert lost(seen) == []
    for window in seen.windows[-65:]:
        window.histogram = Counter({200: 98, 208: 2})
    assert lost(seen) == ["p99 of a call, last to first"]


def test_window_when_read_then_gives_percentiles_within_a_sixteenth():
    window = parse_window("calls=30 refused=2 histogram=160:90,208:10\n", 5.0)
    assert (window.began, window.calls, window.refused) == (5.0, 30, 2)
    assert 1.024 < window.percentile_us(0.5) <= 1.024 * 17 / 16
    assert 8.192 < window.percentile_us(0.99) <= 8.192 * 17 / 16
    with pytest.raises(ValueError, match="not a line"):
        parse_window("mkdir: no", 0.0)


def test_minutes_when_put_together_then_leave_out_the_one_that_is_not_over(seen):
    each = minutes(seen.windows, 60.0)
    assert [window.calls for window in each] == [6000] * 10


def test_picture_when_drawn_twice_then_is_the_same(seen, tmp_path):
    draw(seen, 60.0, tmp_path / "a.svg")
    draw(seen, 60.0, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
