"""The part of an audit that counts address spaces: programs, mappings, page tables, descriptor tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.procfs.memory_maps import AddressSpaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.account.books import Books
    from kmem_harness.procfs.memory_maps import Sum
    from kmem_harness.procfs.processes import BoxProcesses
    from kmem_harness.procfs.steps import Steps

__all__ = ["SpacePart"]

_GROWING = ("vma", "page-table", "descriptor-table")
_AIO = "aio-context"


class SpacePart:
    """Address spaces: programs executed, mappings, page tables, tables of descriptors."""

    kinds = ("task", *_GROWING, _AIO)

    def __init__(
        self,
        processes: BoxProcesses,
        outside: Callable[[], int],
        included: dict[str, int],
        *,
        bounded: bool,
    ) -> None:
        """Look at *processes*, of which *outside* were made outside and so are not charged."""
        self._processes = processes
        self._outside = outside
        self._spaces = AddressSpaces(included)
        self._bounded = bounded
        #: Mappings that no call was charged for.
        self._found = 0
        self._failed = 0

    def look(self, books: Books) -> Steps[Sum]:
        """Sum up the address spaces as they are now."""
        vma = books.kinds.get("vma")
        self._spaces.mapped = 0 if vma is None else vma.charged - self._found
        return (yield from self._spaces.sum((yield from self._processes.list())))

    def table_grew(self, pid: int) -> None:
        """Look at the size of this process's table of descriptors from now on."""
        self._spaces.grown.add(pid)

    def excess_of(self, pid: int) -> Steps[dict[str, int]]:
        """Say what a child of *pid* has beyond what its task's price includes."""
        return self._spaces.excess_of(pid)

    def count(self, books: Books) -> Steps[None]:
        """See :class:`Part`."""
        total = yield from self.look(books)
        if not total.complete:
            self._failed += 1
            return
        kinds = books.kinds
        task, executed = kinds.get("task"), kinds.get("exec")
        if task is not None and executed is not None:
            # Those made outside execute their program before they make anything.
            ran = max(total.executed - self._outside(), 0)
            open_tasks = books.open(task)
            nr = min(ran - executed.live, task.live - open_tasks - total.forked)
            if nr > 0:
                books.move(task, executed, nr)
        books.reconcile({_AIO: total.aio_contexts})
        for name in _GROWING:
            kind = kinds.get(name)
            if kind is not None:
                before = kind.charged
                books.observe(kind, total.kinds[name], bounded=self._bounded)
                self._found += kind.charged - before if name == "vma" else 0

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        task, executed = books.kinds.get("task"), books.kinds.get("exec")
        cheaper = 0
        if task is not None and executed is not None:
            cheaper = task.live * max(task.nbytes - executed.nbytes, 0)
        return cheaper + books.nbytes_of((*_GROWING, _AIO))

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return (
            [
                f"address spaces could not be read {self._failed} times, and were taken as before then"
            ]
            if self._failed
            else []
        )

    def close(self) -> None:
        """See :class:`Part`."""
