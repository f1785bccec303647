"""Charge and uncharge the parts of objects: slab, pages, and the blocks of descriptor tables.

Knows parts and grace periods; knows no workers' ways and no traces.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kmem_harness.core.gfp import GFP_KERNEL, Gfp
from kmem_harness.core.limit_text import PAGE
from kmem_harness.costs.table import Part
from kmem_harness.replay import fdtable

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.core.tree import MemcgTree
    from kmem_harness.replay.clock import Clock

__all__ = ["Books"]

_NORETRY = GFP_KERNEL | Gfp.NORETRY


class Books:
    """What is charged and uncharged on one machine."""

    def __init__(self, tree: MemcgTree, clock: Clock) -> None:
        self._tree = tree
        self._clock = clock

    def new_table(self, memcg: Memcg, size: int) -> list[Part] | None:
        """Charge the blocks of a descriptor table, or none of them."""
        blocks: list[Part] = []
        for nbytes in fdtable.table_blocks(size):
            part = self._kvmalloc(memcg, nbytes)
            if part is None:
                self.undo(memcg, blocks)
                return None
            blocks.append(part)
        return blocks

    def _kvmalloc(self, memcg: Memcg, nbytes: int) -> Part | None:
        """Try a slab or one block of pages, and if that fails single pages."""
        slab = fdtable.slab_nbytes(nbytes)
        part = Part(
            "fdtable", slab or fdtable.block_nbytes(nbytes), "ENOMEM", pages=False, freed="rcu"
        )
        if slab is not None:
            if self.charge(memcg, part):
                return part
        elif nbytes <= fdtable.KMALLOC_MAX and memcg.try_charge(part.nbytes, _NORETRY) is None:
            return Part("fdtable", part.nbytes, "ENOMEM", pages=True, freed="rcu")
        if nbytes <= PAGE:
            return None
        pages = Part("fdtable", -(-nbytes // PAGE) * PAGE, "ENOMEM", pages=True, freed="rcu")
        return pages if self.charge(memcg, pages) else None

    def charge(self, memcg: Memcg, part: Part) -> bool:
        """Charge one part; say whether it was allowed."""
        if not part.pages:
            return self._tree.try_charge_object(memcg, part.nbytes) is None
        if not self._tree.profile.pages_one_by_one:
            return memcg.try_charge(part.nbytes) is None
        for done in range(0, part.nbytes, PAGE):
            if memcg.try_charge(PAGE) is not None:
                for _ in range(0, done, PAGE):
                    memcg.uncharge(PAGE)
                return False
        return True

    def uncharge(self, memcg: Memcg, part: Part, count: int) -> None:
        """Uncharge *count* parts alike, as they were charged."""
        if not memcg.accounts:
            return
        for _ in range(count):
            if not part.pages:
                self._tree.uncharge_object(memcg, part.nbytes)
            elif not self._tree.profile.pages_one_by_one:
                memcg.uncharge(part.nbytes)
            else:
                for _ in range(0, part.nbytes, PAGE):
                    memcg.uncharge(PAGE)

    def undo(self, memcg: Memcg, parts: list[Part], *, at_once: bool = False) -> None:
        """Free the parts of an object that did not come to be, or is freed again.

        :param at_once: wait for no grace period, as when a fork fails half-way.
        """
        late = Counter[tuple["Memcg", Part]]()
        for part in parts:
            if at_once or part.freed == "now":
                self.uncharge(memcg, part, 1)
            else:
                late[memcg, part] += 1
        self.put_off_release(late)

    def put_off_release(self, parts: Counter[tuple[Memcg, Part]]) -> None:
        """Uncharge after a grace period."""
        if not parts:
            return

        def release() -> None:
            for (memcg, part), count in parts.items():
                self.uncharge(memcg, part, count)

        self._clock.put_off("rcu", release)
