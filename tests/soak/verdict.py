"""What a soak promised, and what it reached. Pure.

The first tenth is warm-up, at most a minute. What grows is compared between the stretch after it
and the last one; latencies between the first and the last stretch.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.soak.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.soak.run import Sample, Soak

__all__ = ["Row", "judge", "minutes"]

MEGABYTE = 1 << 20
SLOWER = 1.5


@dataclass(frozen=True)
class Row:
    """One thing promised."""

    what: str
    promised: str
    reached: str
    held: bool


def minutes(windows: Iterable[Window], stretch: float) -> list[Window]:
    """Put windows together, one for each *stretch* of seconds; the last, shorter one is left out."""
    made: list[Window] = []
    for window in sorted(windows, key=lambda one: one.began):
        number = int(window.began // stretch)
        while len(made) <= number:
            made.append(Window(len(made) * stretch))
        made[number].add(window)
    return made[:-1]


def _median(values: Iterable[int]) -> int:
    """Give the middle one: a look at a box has a descriptor open now and then."""
    return statistics.median_low(values)


def _between(samples: list[Sample], begin: float, end: float) -> list[Sample]:
    return [one for one in samples if begin <= one.seconds < end]


def judge(soak: Soak, *, stretch: float, latency: bool = True) -> list[Row]:
    """Hold a soak against its promises; without *latency* on a machine that others use meanwhile."""
    before, *running, ended = soak.samples
    early = _between(running, stretch, 2 * stretch)
    late = _between(running, running[-1].seconds - stretch, running[-1].seconds + 1)
    grown = _median(one.resident for one in late) - _median(one.resident for one in early)
    opened = _median(one.descriptors for one in late) - _median(one.descriptors for one in early)
    left = ended.descriptors - before.descriptors
    charged = {
        "kmem": soak.usage["kmem"],
        "memory": soak.usage["memory"],
        "boxes": sum(report["memcg"]["kmem"]["usage"] for report in soak.reports),
    }
    unbalanced = sum(
        kind["charged"] - kind["uncharged"]
        for report in soak.reports
        for kind in report["kinds"].values()
    )
    beyond = sum(
        report["memcg"]["kmem"]["max_usage"] > report["memcg"]["kmem"]["limit"]
        for report in soak.reports
    )
    refused = sum(report["refusals"]["total"] for report in soak.reports)
    rows = [
        Row("memory of the controller, bytes", "< +1 MB", f"{grown:+d}", grown < MEGABYTE),
        Row("its descriptors", "+0", f"{opened:+d}", opened <= 0),
        Row("its descriptors without boxes", "+0", f"{left:+d}", left <= 0),
        Row("usage at the end", "0", str(charged), not any(charged.values())),
        Row("charged and not uncharged", "0", str(unbalanced), unbalanced == 0),
        Row("boxes beyond their limit", "0", str(beyond), beyond == 0),
        Row("calls refused", "some", str(refused), refused > 0),
        Row(
            "boxes that came and went well",
            "all",
            f"{soak.passing - len(soak.failures)} of {soak.passing}",
            not soak.failures,
        ),
    ]
    if latency:
        each = minutes(soak.windows, stretch)
        first, last = each[0].percentile_us(0.99), each[-1].percentile_us(0.99)
        known = first is not None and last is not None
        rows.append(
            Row(
                "p99 of a call, last to first",
                f"<= {SLOWER}",
                f"{last / first:.2f} ({first:.1f} to {last:.1f} us)" if known else "not measured",
                known and last <= SLOWER * first,
            )
        )
    return rows
