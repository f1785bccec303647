"""The parts of an audit that count tasks and threads, and that tell which processes have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.controller.account.books import Books, Kind
    from kmem_harness.procfs.census import TaskCensus
    from kmem_harness.procfs.steps import Steps

__all__ = ["TaskPart", "ZombiePart"]


class TaskPart:
    """Tasks and threads: cheap, exact. Which of them run, and what, is for later parts to tell."""

    kinds = ("task", "exec", "zombie", "thread")

    def __init__(self, census: TaskCensus) -> None:
        """Count with *census*."""
        self._census = census
        self.with_threads = False

    def count(self, books: Books) -> Steps[None]:
        """See :class:`Part`."""
        found = yield from self._census.count(with_threads=self.with_threads)
        task, thread = books.kinds["task"], books.kinds["thread"]
        processes = _processes(books)
        surplus = sum(kind.live for kind in processes) - found.processes - books.open(task)
        # Some calls are charged as a process until a census tells that they made a thread.
        lacking = found.threads + books.open(thread) - thread.live
        for kind in processes:
            if kind.nbytes >= thread.nbytes:
                moved = max(min(kind.live, surplus, lacking), 0)
                books.move(kind, thread, moved)
                surplus -= moved
                lacking -= moved
        # The cheaper are gone: what remains is at most what is charged for it.
        for kind in reversed(processes):
            gone = max(min(kind.live, surplus), 0)
            books.lower(kind, gone)
            surplus -= gone
        books.reconcile({"thread": found.threads})

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return []

    def close(self) -> None:
        """See :class:`Part`."""
        self._census.close()


class ZombiePart:
    """Processes that have ended and wait to be reaped: of their memory little is left.

    That holds from Linux 4.9 on; before, a stack stays until then (K90), and those kernels' cost
    tables have no zombies. Source: kernel/fork.c and kernel/sched/core.c (v5.10), put_task_stack.
    """

    kinds = ("zombie",)

    def __init__(self, census: TaskCensus, tasks: TaskPart) -> None:
        """Look with *census* at the processes that *tasks* counts, which it does first."""
        self._census = census
        self._tasks = tasks

    @staticmethod
    def is_for(kinds: Mapping[str, Kind]) -> bool:
        """Say whether a zombie costs less than a process."""
        zombie = kinds.get("zombie")
        living = (kinds["task"], kinds.get("exec", kinds["task"]))
        return zombie is not None and all(zombie.nbytes < kind.nbytes for kind in living)

    def count(self, books: Books) -> Steps[None]:
        """See :class:`Part`."""
        yield from self._tasks.count(
            books
        )  # or else what is gone, and threads, would pass for zombies
        zombie, *living = reversed(_processes(books))
        ended = sum(kind.live for kind in living) - books.open(books.kinds["task"])
        if ended <= 0:
            return
        ended -= yield from self._census.living()
        for kind in living:
            nr = max(min(kind.live, ended), 0)
            books.turn(kind, zombie, nr)
            ended -= nr

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        zombie, *living = reversed(_processes(books))
        return sum(kind.live * (kind.nbytes - zombie.nbytes) for kind in living)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return []

    def close(self) -> None:
        """See :class:`Part`."""


def _processes(books: Books) -> list[Kind]:
    """List what a process may be charged as, the dearest first."""
    names = [name for name in ("task", "exec", "zombie") if name in books.kinds]
    return sorted((books.kinds[name] for name in names), key=lambda kind: -kind.nbytes)
