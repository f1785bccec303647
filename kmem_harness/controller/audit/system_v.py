"""The part of an audit that counts System V identifiers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kmem_harness.procfs.host_counts import count_rows, count_semaphores, count_system_v

if TYPE_CHECKING:
    from kmem_harness.controller.account.books import Books
    from kmem_harness.procfs.steps import Steps

__all__ = ["SystemVPart"]

_BY_TABLE = ("sysv-sem", "sysv-msg", "sysv-shm")
_SYSTEM_V = (*_BY_TABLE, "sysv-semaphores")


class SystemVPart:
    """System V identifiers, which outlive whoever made them.

    Where the box has an IPC namespace, those in it are its own, all of them; elsewhere it has what
    there is more than before.
    """

    kinds = _SYSTEM_V

    def __init__(self, own: tuple[int, ...] = ()) -> None:
        """Start from what there is; *own* are the tables of the box's namespace: sem, msg and shm."""
        self._own = own
        self._before = self._count()
        self._alive = dict.fromkeys(_SYSTEM_V, 0)

    def count(self, books: Books) -> Steps[None]:
        """See :class:`Part`."""
        yield
        now = self._count()
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
        for fd in self._own:
            os.close(fd)
        self._own = ()

    def _count(self) -> dict[str, int]:
        if self._own:
            counts = dict(zip(_BY_TABLE, map(count_rows, self._own), strict=True))
            return counts | {"sysv-semaphores": count_semaphores(self._own[0])}
        return count_system_v()
