"""Turn what a controller says of its memcgs, look by look, into rows with rates. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["SORTS", "Row", "Watch", "ordered"]

#: Limits from here on are none: the kernel's own big number lies just above.
_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Row:
    """One memcg at one look. Units: bytes; calls and refusals of all boxes below, also per second."""

    path: str
    kmem: Mapping[str, int]
    memory: Mapping[str, int]
    boxes: int
    calls: int
    refused: int
    calls_per_second: float
    refused_per_second: float
    #: Of all boxes below, by kind: live objects, their bytes, refusals.
    kinds: Mapping[str, Mapping[str, int]]

    @property
    def limit(self) -> int | None:
        """The kmem limit, if there is one."""
        limit = self.kmem["limit"]
        return limit if 0 <= limit < _NO_LIMIT else None

    @property
    def share(self) -> float | None:
        """The part of the limit that is used."""
        return self.kmem["usage"] / self.limit if self.limit else None

    def as_dict(self) -> dict[str, Any]:
        """Give it JSON-ready."""
        return {
            "path": self.path,
            "kmem": dict(self.kmem),
            "memory": dict(self.memory),
            "boxes": self.boxes,
            "calls": self.calls,
            "refused": self.refused,
            "calls_per_second": round(self.calls_per_second, 3),
            "refused_per_second": round(self.refused_per_second, 3),
            "kinds": {kind: dict(row) for kind, row in self.kinds.items()},
        }


#: What rows can be sorted by: the key to press, the name, and what comes first.
SORTS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "p": ("path", lambda row: row.path),
    "u": ("usage", lambda row: (-row.kmem["usage"], row.path)),
    "l": ("limit", lambda row: (-(row.share or 0), row.path)),
    "r": ("refusals", lambda row: (-row.refused_per_second, -row.refused, row.path)),
    "c": ("calls", lambda row: (-row.calls_per_second, row.path)),
}


def ordered(rows: Sequence[Row], by: str) -> list[Row]:
    """Sort *rows* by the name of an order."""
    key = next(key for name, key in SORTS.values() if name == by)
    return sorted(rows, key=key)


class Watch:
    """Remembers the last look, for rates."""

    def __init__(self) -> None:
        """Start without one: the first look has no rates."""
        self._when: float | None = None
        #: By box: its calls and refusals at the last look.
        self._before: dict[str, tuple[int, int]] = {}

    def look(self, survey: Sequence[Mapping[str, Any]], now: float) -> list[Row]:
        """Make the rows of a *survey* taken at *now*, in seconds of any steady clock."""
        elapsed = None if self._when is None else max(now - self._when, 1e-9)
        seen: dict[str, tuple[int, int]] = {}
        rows = []
        for memcg in survey:
            below = [
                box
                for one in survey
                if _is_within(one["path"], memcg["path"])
                for box in one["boxes"]
            ]
            calls, refused = (sum(box[name] for box in below) for name in ("calls", "refused"))
            new_calls = new_refused = 0
            for box in below:
                # A box that was not there at the last look began with nothing.
                before = self._before.get(box["box"], (0, 0))
                new_calls += box["calls"] - before[0]
                new_refused += box["refused"] - before[1]
                seen[box["box"]] = (box["calls"], box["refused"])
            rows.append(
                Row(
                    path=memcg["path"],
                    kmem=memcg["kmem"],
                    memory=memcg["memory"],
                    boxes=len(below),
                    calls=calls,
                    refused=refused,
                    calls_per_second=new_calls / elapsed if elapsed else 0.0,
                    refused_per_second=new_refused / elapsed if elapsed else 0.0,
                    kinds=_added_up(below),
                )
            )
        self._when, self._before = now, seen
        return rows


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def _added_up(boxes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for box in boxes:
        for kind, row in box["kinds"].items():
            sums = total.setdefault(kind, dict.fromkeys(row, 0))
            for name, value in row.items():
                sums[name] += value
    return total
