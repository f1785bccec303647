"""Predict from a recording where a limit would first refuse, without running again.

Until its first refusal a run under a limit is the run without one. A limit is first met by the
first charge that takes the usage past it, and that charge takes usage higher than it ever was: so
the charges that set a new record answer for every limit there is. What comes after a refusal
depends on what the program does about it, and is not predicted.
"""

from __future__ import annotations

import gc
import os
from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.limit_text import PAGE
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.sizes import UNLIMITED
from kmem_harness.experiments.recorded import Recorded, common_memcg, merged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Charge", "Prediction", "predict"]


@dataclass(frozen=True)
class Charge:
    """One recorded charge. Units: bytes, and seconds since the first box began."""

    #: Which charge it was, from 1.
    number: int
    seconds: float
    tid: int
    syscall: str
    kind: str
    nbytes: int
    #: Of the memcg in question, with this charge.
    usage: int


@dataclass(frozen=True)
class Prediction:
    """What limits of one memcg would do to what was recorded."""

    memcg: str
    kernel: str
    charges: int
    #: The usage of each charge that took it higher than ever before, in order. Units: bytes.
    usages: list[int]
    #: Those charges: number, time, and the row as recorded. There may be a million, of which few
    #: are looked at.
    rows: list[tuple[Any, ...]]
    #: When the first box began. Units: seconds since the epoch.
    began: float
    #: Why it may be inexact, if it may.
    caveats: list[str]

    @property
    def peak(self) -> int:
        """The highest usage. Units: bytes."""
        return self.usages[-1] if self.usages else 0

    @property
    def smallest_limit(self) -> int:
        """The smallest limit, in whole pages, under which nothing would have been refused."""
        return max(-(-self.peak // PAGE) * PAGE, PAGE)

    def first_refused(self, limit: int) -> Charge | None:
        """Give the first charge that *limit* bytes would refuse, ``None`` if it refuses none."""
        if limit == UNLIMITED:
            return None
        held = profile_named(self.kernel).limit_text.parse(str(limit), "memory.kmem.limit_in_bytes")
        index = bisect_right(self.usages, held)
        return self.record(index) if index < len(self.usages) else None

    def record(self, index: int) -> Charge:
        """Give one of the charges that set a new record."""
        number, time, _, tid, syscall, kind, nbytes, *_ = self.rows[index]
        seconds = round(time - self.began, 6)
        return Charge(number, seconds, tid, syscall, kind, nbytes, self.usages[index])

    def as_dict(self) -> dict[str, Any]:
        """Give it JSON-ready."""
        return {
            "memcg": self.memcg,
            "kernel": self.kernel,
            "charges": self.charges,
            "peak": self.peak,
            "smallest_limit": self.smallest_limit,
            "records": [asdict(self.record(index)) for index in range(len(self.usages))],
            "caveats": self.caveats,
        }


def predict(paths: Sequence[str | os.PathLike[str]], memcg: str | None = None) -> Prediction:
    """Read the recordings at *paths* and predict for *memcg*, by default the lowest above all.

    Raises: ConfigurationError, OSError.
    """
    recordings = [Recorded(os.fspath(path)) for path in paths]
    if not recordings:
        raise ConfigurationError("no recording given; name at least one file")
    kernels = sorted({one.kernel for one in recordings})
    if len(kernels) > 1:
        message = f"recordings of kernels {' and '.join(kernels)} do not go together; give one's"
        raise ConfigurationError(message)
    where = memcg or common_memcg(recordings)
    zero = min(one.began for one in recordings)
    usages: list[int] = []
    rows: list[tuple[Any, ...]] = []
    highest = number = 0
    with _no_collection():
        for number, (time, usage, row) in enumerate(merged(recordings, where), 1):
            if usage > highest:
                highest = usage
                usages.append(usage)
                rows.append((number, time, *row))
    caveats = []
    for one in recordings:
        if not one.whole:
            caveats.append(f"{one.path} ends early: what came later is not known")
        if one.lost:
            caveats.append(f"{one.path} lost {one.lost} charges that could not be written")
    held = usages[0] - rows[0][6] if usages else 0
    if held:
        caveats.append(f"{where} held {held} bytes already when the recording began")
    return Prediction(where, kernels[0], number, usages, rows, zero, caveats)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking rows, which hold no cycles: half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
