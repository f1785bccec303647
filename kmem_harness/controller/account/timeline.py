"""Remember what a box used over time, in bounded memory. Knows no boxes: it is handed figures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LONGEST", "Timeline"]

#: Points kept at most. When it is full, of each two neighbours the higher stays.
LONGEST = 512


class Timeline:
    """Usage, refusals and live objects of one box, from its arming on.

    Units: seconds, bytes, counts. Points come closer where something happens and are thinned as the
    run gets longer; the highest usage that was ever noted is among them, whatever is thinned.
    """

    def __init__(self) -> None:
        """Begin now."""
        self.began = time.time()
        self._zero = time.monotonic()
        #: (seconds, usage, refused, live by kind), by time.
        self._points: list[tuple[float, int, int, tuple[int, ...]]] = []
        self._slot_began = -1.0
        #: Points closer than this share a slot. Grows as points are thinned.
        self._slot_seconds = 0.0

    @property
    def slot_seconds(self) -> float:
        """How far points lie apart by now: looking more often than that adds none."""
        return self._slot_seconds

    def note(self, usage: int, refused: int, live: Iterable[int], *, last: bool = False) -> None:
        """Note how things stand; *live* always in the same order of kinds.

        In a slot that has its point already, only a higher usage takes its place, or the *last*
        figures of all.
        """
        now = time.monotonic() - self._zero
        points = self._points
        in_slot = not last and now - self._slot_began < self._slot_seconds
        if in_slot and usage <= points[-1][1]:
            return
        point = (now, usage, refused, tuple(live))
        if in_slot:
            points[-1] = point
            return
        if len(points) > 1 and points[-1][1:] == points[-2][1:] == point[1:]:
            points[-1] = point  # a level line needs its two ends
            return
        self._slot_began = now
        points.append(point)
        if len(points) >= LONGEST:
            self._thin()

    def _thin(self) -> None:
        first, *inner, last = self._points
        pairs = zip(inner[::2], inner[1::2], strict=True)  # LONGEST is even
        self._points = [first, *(max(pair, key=lambda point: point[1]) for pair in pairs), last]
        self._slot_seconds = (last[0] - first[0]) / len(self._points)

    def report(self, kinds: Iterable[str]) -> dict[str, Any]:
        """Give the report's ``timeline``: one list for each figure, all equally long.

        *kinds* names the figures of ``live`` as :meth:`note` got them; kinds that never lived are
        left out.
        """
        points = self._points
        columns = zip(*(point[3] for point in points), strict=True)
        return {
            "began": round(self.began, 6),
            "seconds": [round(point[0], 6) for point in points],
            "usage": [point[1] for point in points],
            "refused": [point[2] for point in points],
            "live": {
                kind: list(column)
                for kind, column in zip(kinds, columns, strict=False)
                if any(column)
            },
        }
