"""What the programs say of one window of time, read and put together. Pure."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Window", "parse_window"]

_SUB_BITS = 4
_LINE = re.compile(r"calls=(\d+) refused=(\d+) histogram=(\S*)")


@dataclass
class Window:
    """Supervised calls of a stretch of time, and the latencies of the cheapest of them.

    :param began: seconds from the begin of the soak.
    :param histogram: how many by bucket; ``tests/programs/soak.c`` says what a bucket is.
    """

    began: float
    calls: int = 0
    refused: int = 0
    histogram: Counter[int] = field(default_factory=Counter)

    def add(self, other: Window) -> None:
        """Take another's in: another program's, or those of the next stretch."""
        self.calls += other.calls
        self.refused += other.refused
        self.histogram.update(other.histogram)

    def percentile_us(self, share: float) -> float | None:
        """Give the latency that *share* of the calls did not exceed, to 6 %. Units: microseconds."""
        wanted = share * self.histogram.total()
        for bucket in sorted(self.histogram):
            wanted -= self.histogram[bucket]
            if wanted <= 0:
                return _top_of(bucket) / 1000
        return None


def _top_of(bucket: int) -> int:
    high, low = bucket >> _SUB_BITS, bucket & ((1 << _SUB_BITS) - 1)
    return (low + (1 << _SUB_BITS) + 1) << (high - _SUB_BITS)


def parse_window(line: str, began: float) -> Window:
    """Read one line of ``soak``. Raises: ValueError for any other."""
    found = _LINE.fullmatch(line.strip())
    if found is None:
        message = f"not a line of soak: {line!r}"
        raise ValueError(message)
    pairs = (pair.split(":") for pair in found[3].split(",") if pair)
    histogram = Counter({int(bucket): int(count) for bucket, count in pairs})
    return Window(began, int(found[1]), int(found[2]), histogram)
