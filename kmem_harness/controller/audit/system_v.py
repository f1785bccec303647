"""The part of an audit that counts System V identifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.procfs.host_counts import count_system_v

if TYPE_CHECKING:
    from kmem_harness.controller.account.books import Books

__all__ = ["SystemVPart"]

_SYSTEM_V = ("sysv-sem", "sysv-semaphores", "sysv-msg", "sysv-shm")


class SystemVPart:
    """System V identifiers, which outlive whoever made them."""

    kinds = _SYSTEM_V

    def __init__(self) -> None:
        """Start from what there is."""
        self._before = count_system_v()
        self._alive = dict.fromkeys(_SYSTEM_V, 0)

    def count(self, books: Books) -> None:
        """See :class:`Part`."""
        now = count_system_v()
        for name in _SYSTEM_V:
            kind = books.kinds.get(name)
            if kind is None:
                continue
            self._alive[name] = min(
                max(self._alive[name] + now[name] - self._before[name], 0), kind.live
            )
            books.reconcile({name: self._alive[name]})
        self._before = now

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return []

    def close(self) -> None:
        """See :class:`Part`."""
