"""Set the limits of memory and memsw, and empty a memcg: the writes that reclaim (K69, K84).

Knows counters and reclaim; knows no text. kmem limits are not here: nothing can be reclaimed
for them (K41, K68).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kmem_harness.core.charging import ChargeRequest
from kmem_harness.core.errors import kernel_error
from kmem_harness.core.gfp import GFP_KERNEL, Situation

if TYPE_CHECKING:
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.core.memcg import Memcg

__all__ = ["force_empty", "set_memory_limit", "set_memsw_limit"]

_RETRIES = 5


def set_memory_limit(memcg: Memcg, limit: int, file: str) -> None:
    """Set memory's limit, never above memsw's.

    Raises: OSError EINVAL, EBUSY, EINTR.
    """
    most = memcg.memory.ceiling if memcg.memsw is None else memcg.memsw.limit
    if limit > most:
        why = f"over the memsw limit of {most}"
        raise kernel_error(errno.EINVAL, why, rule="K69, K24", file=file, value=str(limit))
    _resize(memcg, memcg.memory, limit, file)


def set_memsw_limit(memcg: Memcg, memsw: ResourceCounter, limit: int, file: str) -> None:
    """Set memsw's limit, never below memory's.

    Raises: OSError EINVAL, EBUSY, EINTR.
    """
    if limit < memcg.memory.limit:
        why = f"below the memory limit of {memcg.memory.limit}"
        raise kernel_error(errno.EINVAL, why, rule="K69", file=file, value=str(limit))
    _resize(memcg, memsw, limit, file)


def _resize(memcg: Memcg, counter: ResourceCounter, limit: int, file: str) -> None:
    """Reclaim until *limit* holds, or until nothing more comes (K69)."""
    request = ChargeRequest(memcg, 0, GFP_KERNEL, Situation.NORMAL)
    retries_left = _RETRIES * sum(1 for _ in memcg.subtree())
    if counter.usage > limit:
        memcg.tree.drain_stocks(memcg)
    while counter.usage > limit and retries_left:
        if request.dying:
            why = "a signal came while shrinking"
            raise kernel_error(errno.EINTR, why, rule="K69", file=file, value=str(limit))
        before = counter.usage
        memcg.tree.reclaim(memcg, request, swap=counter.name != "memsw")
        if counter.usage >= before:
            retries_left -= 1
    counter.set_limit(limit, file=file)


def force_empty(memcg: Memcg) -> None:
    """Reclaim what can be reclaimed, then move user pages up; kernel charges stay (K84)."""
    tree = memcg.tree
    request = ChargeRequest(memcg, 0, GFP_KERNEL, Situation.NORMAL)
    tree.drain_stocks(memcg)
    retries_left = _RETRIES
    while memcg.memory.usage and retries_left:
        if not tree.reclaim(memcg, request, swap=True):
            retries_left -= 1
    tree.drain_stocks(memcg)
    if memcg.lru_nbytes and tree.profile.moves_user_pages:
        memcg.move_user_pages()
