"""Page allocations and their tags: who is charged for a page, and who is given it back to.

Knows the hooks around a kernel's page allocator (K31-K37); knows no slab and no objects. What is
uncharged follows from a page's own record, never from where its task lives now (K115).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.core.gfp import GFP_KERNEL, Gfp, Situation
from kmem_harness.core.limit_text import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.core.memcg import Memcg

__all__ = ["Page", "PageAllocator"]


class Page:
    """A block of pages: its size, and the memcg it is tagged with if it was charged (K36)."""

    __slots__ = ("memcg", "nbytes")

    def __init__(self, nbytes: int, memcg: Memcg | None) -> None:
        self.nbytes = nbytes
        self.memcg = memcg


class PageAllocator:
    """Hands out pages that never run out, unless ``has_pages`` says so (K117)."""

    __slots__ = ("has_pages",)

    def __init__(self, has_pages: Callable[[], bool] = lambda: True) -> None:
        self.has_pages = has_pages

    def allocate(
        self,
        memcg: Memcg,
        order: int,
        gfp: Gfp = GFP_KERNEL,
        situation: Situation = Situation.NORMAL,
    ) -> Page | None:
        """Allocate a block for a task of *memcg*; ``None`` is the kernel's NULL.

        A refused charge never reaches the allocator (K36).
        """
        nbytes = PAGE << order
        owner = None
        if memcg.accounts and not memcg.tree.charging.passes_uncharged(gfp, situation):
            if memcg.try_charge(nbytes, gfp, situation) is not None:
                return None
            owner = memcg
        if not self.has_pages():
            if owner is not None:
                owner.uncharge(nbytes)
            return None
        return Page(nbytes, owner)

    @staticmethod
    def free(page: Page) -> None:
        """Free a block; an untagged one moves no counter (K37)."""
        owner, page.memcg = page.memcg, None
        if owner is not None:
            owner.uncharge(page.nbytes)
