"""Charge slab objects by the byte, as 5.10 does: whole pages on the counters, change in hand.

Knows how bytes become pages; knows no object kinds. Without a stock every byte is charged
exactly. Source: mm/memcontrol.c obj_cgroup_charge, refill_obj_stock (5.10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.core.gfp import GFP_KERNEL, Gfp, Situation
from kmem_harness.core.limit_text import PAGE

if TYPE_CHECKING:
    from kmem_harness.core.counter import Refusal
    from kmem_harness.core.memcg import Memcg

__all__ = ["ObjectStock"]


class ObjectStock:
    """One CPU's change: bytes of pages already charged to a memcg and not in any object."""

    __slots__ = ("_left_aside", "memcg", "nbytes")

    def __init__(self) -> None:
        self.memcg: Memcg | None = None
        self.nbytes = 0
        # Change of less than a page, kept per memcg while another one has the stock.
        self._left_aside: dict[Memcg, int] = {}

    def try_charge(
        self,
        memcg: Memcg,
        nbytes: int,
        gfp: Gfp = GFP_KERNEL,
        situation: Situation = Situation.NORMAL,
    ) -> Refusal | None:
        """Charge one object of *nbytes*, from the change in hand if that is enough."""
        if self.memcg is memcg and self.nbytes >= nbytes:
            self.nbytes -= nbytes
            return None
        nr_pages = -(-nbytes // PAGE)
        refusal = memcg.try_charge(nr_pages * PAGE, gfp, situation)
        if refusal is None and memcg.accounts:
            memcg.object_nbytes += nr_pages * PAGE
            self._refill(memcg, nr_pages * PAGE - nbytes)
        return refusal

    def uncharge(self, memcg: Memcg, nbytes: int) -> None:
        """Take one object back; whole pages go back to the counters when over a page is held."""
        self._refill(memcg, nbytes)
        if memcg.offline:
            # Nobody will ask for the change of a removed memcg: it must not stay charged.
            self.release(memcg)

    def release(self, memcg: Memcg) -> None:
        """Give back every whole page held for *memcg*, as its removal does."""
        if self.memcg is memcg:
            self._drain()
        held = self._left_aside.pop(memcg, 0)
        nbytes = held // PAGE * PAGE
        if nbytes:
            self._give_back(memcg, nbytes)
        if held - nbytes:
            self._left_aside[memcg] = held - nbytes

    def hand_over(self, memcg: Memcg, above: Memcg) -> None:
        """Let *above* have the change of a removed *memcg*, whose objects it has got."""
        self.release(memcg)
        change = self._left_aside.pop(memcg, 0)
        if change:
            self._left_aside[above] = self._left_aside.get(above, 0) + change

    def _refill(self, memcg: Memcg, nbytes: int) -> None:
        if self.memcg is not memcg:
            self._drain()
            self.memcg = memcg
            self.nbytes = self._left_aside.pop(memcg, 0)
        self.nbytes += nbytes
        if self.nbytes > PAGE:
            self._drain()

    def _drain(self) -> None:
        memcg, nbytes = self.memcg, self.nbytes
        self.memcg = None
        self.nbytes = 0
        if memcg is None:
            return
        pages, change = nbytes // PAGE * PAGE, nbytes % PAGE
        if change:
            self._left_aside[memcg] = self._left_aside.get(memcg, 0) + change
        if pages:
            self._give_back(memcg, pages)

    @staticmethod
    def _give_back(memcg: Memcg, nbytes: int) -> None:
        memcg.object_nbytes -= nbytes
        memcg.uncharge(nbytes)
