"""The per-CPU stock: bytes already charged to one memcg's user counters, not yet asked for (K50).

kmem is never stocked. Knows counters; decides nothing about limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.core.limit_text import PAGE

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg

__all__ = ["BATCH", "Stock"]

BATCH = 32 * PAGE


class Stock:
    """What one CPU holds in advance, and for whom."""

    __slots__ = ("memcg", "nbytes")

    def __init__(self) -> None:
        self.memcg: Memcg | None = None
        self.nbytes = 0

    def consume(self, memcg: Memcg, nbytes: int) -> bool:
        """Serve *nbytes* wholly from the stock, or not at all (K51)."""
        if nbytes > BATCH or self.memcg is not memcg or self.nbytes < nbytes:
            return False
        self.nbytes -= nbytes
        return True

    def refill(self, memcg: Memcg, nbytes: int, *, most: int | None = None) -> None:
        """Add *nbytes* of *memcg*, giving another owner's remainder back first (K52).

        :param most: above this much the whole stock is given back, as 5.10 does.
        """
        if self.memcg is not memcg:
            self.drain()
            self.memcg = memcg
        self.nbytes += nbytes
        if most is not None and self.nbytes > most:
            self.drain()

    def drain(self) -> None:
        """Give everything back to the counters (K55)."""
        memcg, nbytes = self.memcg, self.nbytes
        self.memcg = None
        self.nbytes = 0
        if memcg is not None and nbytes:
            memcg.uncharge_user_counters(nbytes)
