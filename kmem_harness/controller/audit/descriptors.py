"""The part of an audit that counts what descriptors keep: files, sockets, pipes, watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.procfs.descriptors import Descriptors, count_descriptors
from kmem_harness.procfs.steps import result_of

if TYPE_CHECKING:
    from kmem_harness.controller.account.books import Books
    from kmem_harness.controller.audit.spaces import SpacePart
    from kmem_harness.procfs.processes import BoxProcesses
    from kmem_harness.procfs.steps import Steps

__all__ = ["DescriptorPart"]

_SOCKETS = ("unix-socket", "tcp-socket", "tcp6-socket", "udp-socket", "netlink-socket")
_WATCHES = ("epoll-watch", "inotify-watch")
_BY_DESCRIPTOR = (
    *_SOCKETS,
    "file",
    "pipe",
    "anon-file",
    "inotify",
    "memfd",
    "fs-context",
    "userfaultfd",
    *_WATCHES,
)


class DescriptorPart:
    """Open files, sockets, pipes and the like, in tables and in messages under way."""

    kinds = _BY_DESCRIPTOR

    def __init__(self, processes: BoxProcesses, spaces: SpacePart) -> None:
        """Count what *processes* hold; *spaces* knows the mappings that keep closed files."""
        self._processes = processes
        self._spaces = spaces
        self._known: dict[str, str] = {}
        self._failed = 0
        self._outside: dict[str, int] = {}
        self._outside_inodes: frozenset[str] = frozenset()

    def leave_out_what_is_there(self) -> None:
        """Take what the processes hold now for made outside: it is never charged."""
        found = result_of(count_descriptors(result_of(self._processes.list()), {}, frozenset()))
        self._outside_inodes = frozenset(found.inodes)

    def count(self, books: Books) -> Steps[None]:
        """See :class:`Part`."""
        kinds = books.kinds
        watched = {name for name in _WATCHES if name in kinds and kinds[name].live}
        found = yield from self._scan(watched)
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
        files, memfds = yield from self._mapped(books, counts, found)
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

    def _scan(self, watched: set[str]) -> Steps[Descriptors | None]:
        """Look at all tables, and at those of processes that appeared meanwhile."""
        pids = yield from self._processes.list()
        found = yield from count_descriptors(pids, self._known, watched)
        late = set((yield from self._processes.list())).difference(pids)
        if late:
            # Whoever forked them may have closed, before we came to it, what they still hold.
            return None
        self._known = found.inodes
        self._failed += not found.complete
        return found if found.complete else None

    def _mapped(
        self, books: Books, counts: dict[str, int], found: Descriptors
    ) -> Steps[tuple[int, int]]:
        """Count files and memfds that only a mapping keeps, where any were closed at all."""
        file, memfd = books.kinds.get("file"), books.kinds.get("memfd")
        files = memfds = 0
        if (file is not None and file.live > counts.get("file", 0)) or (
            memfd is not None and memfd.live > counts.get("memfd", 0)
        ):
            mapped = yield from self._spaces.look()
            files = len(mapped.files)
            memfds = len(mapped.memfds - found.inodes.keys())
        return files, memfds
