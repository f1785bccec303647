"""When a new peak is looked at: of what share of it, and of what share of the time, looks may take.

One threshold in bytes, set anew after each look, as a garbage collector paces itself: knows usage and
seconds; knows no boxes.
"""

from __future__ import annotations

__all__ = ["Pace"]

#: A peak is true to this part of it.
PEAK_PARTS = 128
#: After a look a box goes on for nine times as long as that took: a tenth of the time is its looks'.
#: More than two that do so share out a fifth evenly, or sixty-four would leave no time for calls.
_REST = 9.0
_SHARE = 0.5
#: While other boxes are looked at, a box is let by so far above what it was seen to use, or a quarter of
#: its limit: its callers would wait for those looks and for one of their own.
_SPARED_NBYTES = 2 << 20
_SPARED_SHARE = 4


class Pace:
    """Up to what use new peaks of one box are let by. Units: bytes, seconds."""

    __slots__ = ("_ended", "_otherwise", "beyond", "rests_until", "seen")

    def __init__(self, now: float) -> None:
        """Have the first peak looked at."""
        #: The use that was left when the box was last looked at.
        self.seen = 0
        #: A new peak of no more than this is let by.
        self.beyond = 0
        #: Until when that will last, as far as can be told.
        self.rests_until = now
        self._ended = now
        #: The threshold that a spared box has otherwise.
        self._otherwise = -1

    def spare(self, usage: int, limit: int) -> bool:
        """Let a peak of *usage* by, and those a little higher, while others are looked at, if that may be."""
        spared = self.seen + min(_SPARED_NBYTES, limit // _SPARED_SHARE)
        if usage > spared or self._otherwise >= 0:
            return False
        self._otherwise, self.beyond = self.beyond, spared
        return True

    def spare_no_more(self) -> None:
        """Go back to the threshold before, unless there was a look since."""
        if self._otherwise >= 0:
            self.beyond, self._otherwise = self._otherwise, -1

    def looked(
        self, before: int, after: int, began: float, now: float, took: float, nr_resting: int
    ) -> None:
        """Set the threshold after a look that *took* so long and found *after* of *before* in use.

        A box that grows as fast as it did since the last look reaches it when its rest is over;
        *nr_resting* boxes rest as well.
        """
        rest = took * _REST * max(1.0, (nr_resting + 1) * _SHARE)
        seconds = max(began - self._ended, 1e-6)
        growth = max(before - self.seen, 0) / seconds
        self.seen = after
        self._otherwise = -1
        self.beyond = after + max(after // PEAK_PARTS, int(growth * rest))
        self.rests_until = now + rest
        self._ended = now
