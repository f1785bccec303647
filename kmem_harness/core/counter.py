"""One resource counter and its arithmetic. Knows parents and limits; knows no files, no policy.

Units: bytes; ``limit`` is inclusive. Threads: the controller serialises calls (K14).
Source: kernel/res_counter.c (3.8) and mm/page_counter.c (5.10), in bytes where the latter
counts pages.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from kmem_harness.core.errors import kernel_error

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg

__all__ = ["Refusal", "ResourceCounter"]


class Refusal(NamedTuple):
    """A charge that was refused: the counter that said no, and how much it lacked (K5)."""

    counter: ResourceCounter
    shortfall_bytes: int


class ResourceCounter:
    """What one memcg has used of one resource, and how much it may use (K1)."""

    __slots__ = (
        "ceiling",
        "failcnt",
        "limit",
        "max_usage",
        "memcg",
        "name",
        "parent",
        "soft_limit",
        "usage",
    )

    def __init__(
        self,
        ceiling: int,
        parent: ResourceCounter | None = None,
        name: str = "",
        memcg: Memcg | None = None,
    ) -> None:
        self.limit = ceiling
        self.parent = parent
        self.usage = 0
        self.max_usage = 0
        self.failcnt = 0
        self.soft_limit = ceiling
        self.ceiling = ceiling
        self.name = name
        self.memcg = memcg

    @property
    def unlimited(self) -> bool:
        """Whether the limit is the kernel's own "no limit" number (K2)."""
        return self.limit == self.ceiling

    @property
    def margin(self) -> int:
        """Bytes that still fit here, ancestors aside (K13)."""
        return max(0, self.limit - self.usage)

    @property
    def soft_excess(self) -> int:
        """Bytes above the soft limit (K13)."""
        return max(0, self.usage - self.soft_limit)

    def try_charge(self, nbytes: int) -> Refusal | None:
        """Charge *nbytes* here and to every ancestor, or to none; ``None`` means charged.

        A refusal raises failcnt at the refusing counter only (K3), and leaves the peaks the
        walk set on its way, as the kernel does (K4).
        """
        counter: ResourceCounter | None = self
        while counter is not None:
            after = counter.usage + nbytes
            if after > counter.limit:
                counter.failcnt += 1
                self.uncharge_until(counter, nbytes)
                return Refusal(counter, after - counter.limit)
            counter.usage = after
            counter.max_usage = max(counter.max_usage, after)
            counter = counter.parent
        return None

    def charge(self, nbytes: int, *, count_failures: bool = True) -> Refusal | None:
        """Charge past any limit; name the lowest counter now over its limit, if one is (K7).

        :param count_failures: raise failcnt at each level passed; page counters do not.
        """
        lowest: Refusal | None = None
        counter: ResourceCounter | None = self
        while counter is not None:
            after = counter.usage + nbytes
            counter.usage = after
            counter.max_usage = max(counter.max_usage, after)
            if after > counter.limit:
                counter.failcnt += count_failures
                if lowest is None:
                    lowest = Refusal(counter, after - counter.limit)
            counter = counter.parent
        return lowest

    def charge_found_to_fit(self, nbytes: int) -> None:
        """Charge *nbytes* here alone, which somebody has seen to fit: above it is told as well."""
        self.usage = after = self.usage + nbytes
        if after > self.max_usage:  # noqa: PLR1730 - a call would cost as much again
            self.max_usage = after

    def uncharge(self, nbytes: int) -> int:
        """Take *nbytes* back here and above; return what is left *here* (K8, K9).

        A counter that holds less falls to 0 and the levels above still give the full amount.
        """
        self.uncharge_until(None, nbytes)
        return self.usage

    def uncharge_until(self, top: ResourceCounter | None, nbytes: int) -> int:
        """Take *nbytes* back here and above, stopping below *top* (K10)."""
        counter: ResourceCounter | None = self
        while counter is not None and counter is not top:
            left = counter.usage - nbytes
            counter.usage = max(left, 0)
            counter = counter.parent
        return self.usage

    def set_limit(self, limit: int, *, file: str = "limit_in_bytes") -> None:
        """Set the limit, unless more than that is used already (K11).

        Raises: OSError EBUSY; neither parents nor children are consulted.
        """
        if self.usage > limit:
            why = f"{self.usage} bytes are in use, more than the limit asked for"
            raise kernel_error(errno.EBUSY, why, rule="K11", file=file, value=str(limit))
        self.limit = limit

    def reset_max_usage(self) -> None:
        """Let the peak start again from the present usage, not from 0 (K12)."""
        self.max_usage = self.usage

    def reset_failcnt(self) -> None:
        """Forget the failures counted here (K12)."""
        self.failcnt = 0
