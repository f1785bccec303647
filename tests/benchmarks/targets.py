"""What the harness has promised, as ratios within one run, and the check against a baseline.

Knows figures; measures nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.measure import Figures

__all__ = ["BASELINE", "TARGETS", "Target", "losses", "write_baseline"]

BASELINE = Path(__file__).with_name("baseline.json")
LOSS = 1.20
#: Only what the harness itself is answerable for; peers are there to compare with.
_OURS = ("no limit", "limit", "limit tasks", "observe", "inject")


@dataclass(frozen=True)
class Target:
    """One row of what is promised: a way of a load against another way of it."""

    text: str
    load: str
    way: str
    base: str
    at_most: float

    def reached(self, figures: Figures) -> float | None:
        """Give the ratio reached; ``None`` if it was not measured."""
        return figures.ratio(self.load, self.way, self.base)


TARGETS = (
    Target("one supervised call, three levels, to an empty C loop", "call", "limit", "C loop", 2.0),
    Target("the same to an empty Python loop", "call", "limit", "Python loop", 1.3),
    Target("fork, exit, wait under a limit to native", "fork", "limit", "native", 1.25),
    Target("the same to sandlock", "fork", "limit", "sandlock", 0.5),
    Target("the same to strace --inject", "fork", "limit", "strace", 0.4),
    Target(
        "the same while a thread of the test computes", "fork", "limit, busy", "native, busy", 1.5
    ),
    Target("a shell script under a limit to native", "script", "limit", "native", 1.05),
    Target("a parallel C compile under a limit to native", "compile", "limit", "native", 1.05),
    Target("redis-benchmark under a limit to native", "redis", "limit", "native", 1.05),
    Target("the shell script, tasks alone limited", "script", "limit tasks", "native", 1.05),
    Target("the compile, tasks alone limited", "compile", "limit tasks", "native", 1.05),
    Target("redis-benchmark, tasks alone limited", "redis", "limit tasks", "native", 1.05),
    Target("read, write, futex under a limit to native", "plain", "limit", "native", 1.01),
    Target("the same to a filter of one call, never made", "plain", "limit", "C loop", 1.01),
    Target("fork, exit, wait without a limit to native", "fork", "no limit", "native", 1.05),
)


def write_baseline(figures: Figures, path: Path = BASELINE) -> None:
    """Keep this run's ratios as those that may not be lost."""
    ratios = {
        load: {
            way: round(ratio, 3) for way in _OURS if (ratio := figures.ratio(load, way)) is not None
        }
        for load in figures.seconds
    }
    path.write_text(json.dumps(ratios, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def losses(figures: Figures, path: Path = BASELINE) -> list[str]:
    """Name each ratio that is a fifth worse than the baseline's."""
    baseline = json.loads(path.read_text(encoding="utf-8"))
    lost = []
    for load, ways in sorted(baseline.items()):
        for way, before in sorted(ways.items()):
            now = figures.ratio(load, way)
            if now is not None and now > before * LOSS:
                lost.append(f"{load}, {way}: {now:.2f} x native, was {before:.2f}")
    return lost
