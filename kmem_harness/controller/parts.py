"""The parts of an audit that look at processes: tasks, descriptors, address spaces, System V.

Each joins one census of the interposer with the books.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.interposer.descriptors import Descriptors, count_descriptors
from kmem_harness.interposer.host_counts import count_system_v, nr_negative_dentries
from kmem_harness.interposer.memory_maps import AddressSpaces, Sum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kmem_harness.controller.books import Books
    from kmem_harness.interposer.census import TaskCensus
    from kmem_harness.interposer.processes import BoxProcesses

__all__ = ["DescriptorPart", "LookupPart", "SpacePart", "SystemVPart", "TaskPart", "between"]

_SOCKETS = ("unix-socket", "tcp-socket", "tcp6-socket", "udp-socket", "netlink-socket")
_WATCHES = ("epoll-watch", "inotify-watch")
_BY_DESCRIPTOR = (*_SOCKETS, "file", "pipe", "anon-file", "inotify", "memfd", *_WATCHES)
_GROWING = ("vma", "page-table", "descriptor-table")
_SYSTEM_V = ("sysv-sem", "sysv-msg", "sysv-shm")


def between(pids: Iterable[int], breathe: Callable[[], None]) -> Iterator[int]:
    """Give *pids*, and breathe after each."""
    for pid in pids:
        yield pid
        breathe()


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


class DescriptorPart:
    """Open files, sockets, pipes and the like, in tables and in messages under way."""

    kinds = _BY_DESCRIPTOR

    def __init__(
        self, processes: BoxProcesses, spaces: SpacePart, breathe: Callable[[], None]
    ) -> None:
        """Count what *processes* hold; *spaces* knows the mappings that keep closed files."""
        self._processes = processes
        self._breathe = breathe
        self._spaces = spaces
        self._known: dict[str, str] = {}
        self._failed = 0
        self._outside: dict[str, int] = {}
        self._outside_inodes: frozenset[str] = frozenset()

    def leave_out_what_is_there(self) -> None:
        """Take what the processes hold now for made outside: it is never charged."""
        found = count_descriptors(self._processes.list(), {}, frozenset())
        self._outside_inodes = frozenset(found.inodes)

    def count(self, books: Books) -> None:
        """See :class:`Part`."""
        kinds = books.kinds
        watched = {name for name in _WATCHES if name in kinds and kinds[name].live}
        found = self._scan(watched)
        if found is None:
            return
        for pid in found.grown:
            self._spaces.table_grew(pid)
        counts = {name: found.kinds[name] for name in _BY_DESCRIPTOR}
        for inode in self._outside_inodes & found.inodes.keys():
            counts[found.inodes[inode]] -= 1
        if found.in_flight:
            unix = kinds.get("unix-socket")
            if unix is None or unix.live - books.open(unix) > counts["unix-socket"]:
                return  # a socket that is itself in a message may hold any number of descriptors
            counts = {name: nr + found.in_flight for name, nr in counts.items()}
        files, memfds = self._mapped(books, counts, found)
        counts["file"] += files
        counts["memfd"] += memfds
        counts = {name: nr for name, nr in counts.items() if name in kinds}
        sockets = {name: counts.pop(name) for name in _SOCKETS if name in counts}
        books.reconcile(sockets)
        for name, nr in counts.items():
            books.reconcile({name: nr})

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return (
            [f"descriptors could not be read {self._failed} times, and were taken for open then"]
            if self._failed
            else []
        )

    def close(self) -> None:
        """See :class:`Part`."""

    def _scan(self, watched: set[str]) -> Descriptors | None:
        """Look at all tables, and at those of processes that appeared meanwhile."""
        pids = self._processes.list()
        found = count_descriptors(pids, self._known, watched, self._breathe)
        late = set(self._processes.list()).difference(pids)
        if late:
            # Whoever forked them may have closed, before we came to it, what they still hold.
            return None
        self._known = found.inodes
        self._failed += not found.complete
        return found if found.complete else None

    def _mapped(self, books: Books, counts: dict[str, int], found: Descriptors) -> tuple[int, int]:
        """Count files and memfds that only a mapping keeps, where any were closed at all."""
        file, memfd = books.kinds.get("file"), books.kinds.get("memfd")
        files = memfds = 0
        if (file is not None and file.live > counts.get("file", 0)) or (
            memfd is not None and memfd.live > counts.get("memfd", 0)
        ):
            mapped = self._spaces.look()
            files = len(mapped.files)
            memfds = len(mapped.memfds - found.inodes.keys())
        return files, memfds


class SpacePart:
    """Address spaces: programs executed, mappings, page tables, tables of descriptors."""

    kinds = ("task", *_GROWING)

    def __init__(
        self,
        processes: BoxProcesses,
        outside: Callable[[], int],
        included: dict[str, int],
        breathe: Callable[[], None],
        *,
        bounded: bool,
    ) -> None:
        """Look at *processes*, of which *outside* were made outside and so are not charged."""
        self._processes = processes
        self._outside = outside
        self._breathe = breathe
        self._spaces = AddressSpaces(included)
        self._bounded = bounded
        self._failed = 0

    def look(self) -> Sum:
        """Sum up the address spaces as they are now."""
        return self._spaces.sum(between(self._processes.list(), self._breathe))

    def table_grew(self, pid: int) -> None:
        """Look at the size of this process's table of descriptors from now on."""
        self._spaces.grown.add(pid)

    def excess_of(self, pid: int) -> dict[str, int]:
        """Say what a child of *pid* has beyond what its task's price includes."""
        return self._spaces.excess_of(pid)

    def count(self, books: Books) -> None:
        """See :class:`Part`."""
        total = self.look()
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
        for name in _GROWING:
            kind = kinds.get(name)
            if kind is not None:
                books.observe(kind, total.kinds[name], bounded=self._bounded)

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        task, executed = books.kinds.get("task"), books.kinds.get("exec")
        cheaper = 0
        if task is not None and executed is not None:
            cheaper = task.live * max(task.nbytes - executed.nbytes, 0)
        return cheaper + books.nbytes_of(_GROWING)

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


class LookupPart:
    """Dentries of names that do not exist, as the whole host counts them.

    Nobody frees one but reclaim, and that is somebody else's: of what calls may have made, as many
    stay as the host has more of.
    """

    kinds = ("dentry",)

    def __init__(self) -> None:
        """Start from what there is."""
        self._before = nr_negative_dentries()
        self._alive = 0

    def count(self, books: Books) -> None:
        """See :class:`Part`."""
        now = nr_negative_dentries()
        kind = books.kinds["dentry"]
        self._alive = min(self._alive + max(now - self._before, 0), kind.live)
        self._before = now
        books.reconcile({"dentry": self._alive})

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return ["dentries of names that do not exist are counted for the whole host"]

    def close(self) -> None:
        """See :class:`Part`."""


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
