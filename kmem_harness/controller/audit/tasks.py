"""The part of an audit that counts tasks and threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmem_harness.controller.account.books import Books
    from kmem_harness.procfs.census import TaskCensus

__all__ = ["TaskPart"]


class TaskPart:
    """Tasks and threads: cheap, exact."""

    kinds = ("task", "exec", "thread")

    def __init__(self, census: TaskCensus) -> None:
        """Count with *census*."""
        self._census = census
        self.with_threads = False

    def count(self, books: Books) -> None:
        """See :class:`Part`."""
        found = self._census.count(with_threads=self.with_threads)
        task, executed = books.kinds["task"], books.kinds.get("exec")
        counts = {"task": found.processes, "thread": found.threads}
        if executed is not None:
            # Which of them run another program is for the next part to tell: the cheaper die here.
            gone = task.live + executed.live - found.processes - books.open(task)
            counts["exec"] = executed.live - min(max(gone, 0), executed.live)
            counts["task"] = max(found.processes - counts["exec"], 0)
        books.reconcile(counts)

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return []

    def close(self) -> None:
        """See :class:`Part`."""
        self._census.close()
