"""Search for the smallest value that passes, by halving. Pure; makes no runs.

What passes with a value is taken to pass with every larger one. Values are *low*, *low* + *resolution*,
.., *high*; the highest is tried first, for if that fails none passes.
"""

from __future__ import annotations

__all__ = ["Search"]


class Search:
    """One search. Ask for :attr:`value`, try it, and :meth:`learn` how it did."""

    def __init__(
        self, low: int, high: int, resolution: int = 1, *, low_second: bool = False
    ) -> None:
        """Search from *low* to *high*; *low_second* tries the lowest value right after the highest.

        Units: whole numbers, such as bytes.
        """
        self.low, self.high, self.resolution = low, high, resolution
        last = -(-(high - low) // resolution)
        # Two places among the values: what is below the first fails, the second and above it passes.
        self._too_small, self._enough = -1, last
        self._at = last
        self._low_second = low_second
        self._is_over = False
        #: The smallest value that passed, and the largest that failed, as far as tried.
        self.smallest: int | None = None
        self.largest_failed: int | None = None

    @property
    def value(self) -> int | None:
        """The value to try next; ``None`` when all is known."""
        return None if self._is_over else self._value_at(self._at)

    @property
    def hopeless(self) -> bool:
        """Whether not even the highest value passes."""
        return self._is_over and self.smallest is None

    @property
    def low_passes(self) -> bool:
        """Whether the lowest value passes already, so that a smaller one may."""
        return self.smallest == self.low

    @property
    def steps_left(self) -> int:
        """How many more values will be tried at most, the one at hand among them."""
        if self._is_over:
            return 0
        first = self.smallest is None
        second = self._low_second and self._too_small < 0
        return first + second + (self._enough - self._too_small - 1 - second).bit_length()

    def learn(self, *, passed: bool) -> None:
        """Take in how the value at hand did, and choose the next."""
        if self._is_over:
            return
        first = self.smallest is None
        if passed:
            self.smallest, self._enough = self._value_at(self._at), self._at
        else:
            self.largest_failed, self._too_small = self._value_at(self._at), self._at
        self._is_over = self._enough - self._too_small == 1 or (first and not passed)
        low_next = first and self._low_second
        self._at = 0 if low_next else (self._too_small + self._enough) // 2

    def _value_at(self, place: int) -> int:
        return min(self.low + place * self.resolution, self.high)
