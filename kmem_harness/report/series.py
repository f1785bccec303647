"""Turn the timelines of run reports into curves, one for each memcg. Pure: knows no drawing.

Between two points a figure stays where it was: what is drawn is what was counted.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Curve", "ancestors", "began", "curve_below", "is_limit", "kinds_of", "value_at"]

#: The kernel's own "no limit" lies just below 2**63 on all profiles.
_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Curve:
    """What the boxes below one memcg held. Units: seconds since the first began; bytes."""

    seconds: list[float]
    by_kind: dict[str, list[int]]
    #: The memcg's own counter as its boxes saw it; empty for a memcg that holds no box itself.
    usage: list[int]

    @property
    def peak(self) -> int:
        """The highest point drawn."""
        stacked = (sum(column) for column in zip(*self.by_kind.values(), strict=True))
        return max((*stacked, *self.usage), default=0)


def is_limit(limit: int) -> bool:
    """Say whether a counter's limit is one."""
    return 0 <= limit < _NO_LIMIT


def ancestors(path: str) -> list[str]:
    """List the memcgs above *path*, the root first."""
    parts = [part for part in path.split("/") if part]
    return ["/" + "/".join(parts[:depth]) for depth in range(len(parts))]


def began(reports: Sequence[Mapping[str, Any]]) -> float:
    """Give the time from which all seconds count: when the first box began."""
    return min(
        (one["timeline"]["began"] for one in reports if one["timeline"]["seconds"]), default=0.0
    )


def value_at(seconds: Sequence[float], values: Sequence[int], when: float) -> int:
    """Give the figure that held at *when*, 0 before the first."""
    index = bisect_right(seconds, when)
    return values[index - 1] if index else 0


def curve_below(path: str, reports: Sequence[Mapping[str, Any]], zero: float) -> Curve:
    """Add up the timelines of all boxes in *path* or below it, with seconds counted from *zero*."""
    below = [one for one in reports if path in {*ancestors(_path(one)), _path(one)}]
    lines = [(_shifted(one, zero), one) for one in below if one["timeline"]["seconds"]]
    grid = sorted({second for seconds, _ in lines for second in seconds})
    by_kind: dict[str, list[int]] = {}
    for kind in kinds_of(below):
        total = [0] * len(grid)
        for seconds, one in lines:
            live = one["timeline"]["live"].get(kind)
            if live is not None:
                nbytes = one["kinds"][kind]["bytes_each"]
                for index, when in enumerate(grid):
                    total[index] += value_at(seconds, live, when) * nbytes
        if any(total):
            by_kind[kind] = total
    looks = [(seconds, one["timeline"]["usage"]) for seconds, one in lines if _path(one) == path]
    usage = [_latest(looks, when) for when in grid] if looks else []
    return Curve(grid, by_kind, usage)


def kinds_of(reports: Iterable[Mapping[str, Any]]) -> list[str]:
    """List the kinds that were ever charged or refused, in the reports' own order.

    One that a census found to be another is charged as that in the end, and drawn while it was not.
    """
    found: dict[str, None] = {}
    for one in reports:
        for kind, row in one["kinds"].items():
            if row["charged"] or row["refused"] or kind in one["timeline"]["live"]:
                found[kind] = None
    return list(found)


def _path(report: Mapping[str, Any]) -> str:
    return str(report["memcg"]["path"])


def _shifted(report: Mapping[str, Any], zero: float) -> list[float]:
    offset = report["timeline"]["began"] - zero
    return [round(offset + second, 6) for second in report["timeline"]["seconds"]]


def _latest(lines: list[tuple[list[float], list[int]]], when: float) -> int:
    """Several boxes look at one counter: the last look holds."""
    looks = [
        (seconds[index - 1], usage[index - 1])
        for seconds, usage in lines
        if (index := bisect_right(seconds, when))
    ]
    return max(looks)[1] if looks else 0
