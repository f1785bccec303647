"""The part of an audit that counts what descriptors keep: files, sockets, pipes, watches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kmem_harness.controller.audit.unseen import UnseenSockets
from kmem_harness.procfs.descriptors import Descriptors, Held, count_descriptors
from kmem_harness.procfs.steps import result_of

if TYPE_CHECKING:
    from kmem_harness.controller.account.books import Books, Kind
    from kmem_harness.controller.audit.spaces import SpacePart
    from kmem_harness.controller.audit.unseen import OutOfTables
    from kmem_harness.procfs.processes import BoxProcesses
    from kmem_harness.procfs.steps import Steps

__all__ = ["DescriptorPart"]

_SOCKETS = ("unix-socket", "tcp-socket", "tcp6-socket", "udp-socket", "netlink-socket")
_WATCHES = ("epoll-watch", "inotify-watch")
#: Which kind of descriptor holds watches of a kind.
_WATCHERS = {"epoll-watch": "anon-file", "inotify-watch": "inotify"}
_BY_MAPPING = ("file", "memfd")
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
        #: By process, as the last whole count found those that hold most.
        self.held: dict[int, Held] = {}
        self._failed = 0
        self._outside_inodes: frozenset[str] = frozenset()
        self._unseen = UnseenSockets(result_of(processes.list()))
        #: Kinds that watch others, of which some may be out of sight.
        self._hides: frozenset[str] = frozenset()
        self._nr_hidden = 0
        self._kept = False

    def leave_out_what_is_there(self) -> None:
        """Take what the processes hold now for made outside: it is never charged."""
        found = result_of(count_descriptors(result_of(self._processes.list()), {}, frozenset()))
        self._outside_inodes = frozenset(found.inodes)

    def count(self, books: Books) -> Steps[bool]:
        """See :class:`Part`."""
        kinds = books.kinds
        watched = {name for name in _WATCHES if name in kinds and kinds[name].live}
        pids = yield from self._processes.list()
        found = yield from self._scan(pids, watched)
        if found is None:
            return False
        for pid in found.grown:
            self._spaces.table_grew(pid)
        counts = {name: found.kinds[name] for name in _BY_DESCRIPTOR}
        for inode in self._outside_inodes & found.inodes.keys():
            counts[found.inodes[inode]] -= 1
        files, memfds, hidden = yield from self._mapped(books, counts, found)
        unseen = found.in_flight + found.hidden
        there = (yield from self._unseen.look(pids, found.inodes)) if unseen else None
        # From here on nothing is looked at any more: the books are as they were found.
        counts["file"] += files
        counts["memfd"] += memfds
        counts = {name: nr for name, nr in counts.items() if name in kinds}
        sockets = {name: counts[name] for name in _SOCKETS if name in counts}
        surplus = books.tell_apart(sockets)
        for name, nr in counts.items():
            if name not in sockets:
                surplus |= books.tell_apart({name: nr})
        if unseen:
            self._leave_unseen(surplus, unseen, there)
        else:
            self._hides = frozenset()
        _leave_dearest(surplus, hidden, _BY_MAPPING)
        for kind, nr in surplus.items():
            if nr > 0:
                books.lower(kind, nr)
        return True

    def _leave_unseen(
        self, surplus: dict[Kind, int], unseen: int, there: OutOfTables | None
    ) -> None:
        """Take out of *surplus* what *unseen* descriptors may hold that are in no table to be read."""
        hides = {
            kind.name for kind, nr in surplus.items() if nr > 0 and kind.name in _WATCHERS.values()
        }
        self._hides |= hides
        for kind in surplus:
            # One that is not seen may have any number of watches.
            if _WATCHERS.get(kind.name) in self._hides:
                surplus[kind] = 0
        for kind, nr in surplus.items():
            if there is None or not there.are_empty:
                # A message to one of these may hold any number of descriptors of other kinds.
                known = kind.name == "unix-socket" and there is not None
                surplus[kind] = max(nr - there.sockets, 0) if there is not None and known else 0
                self._kept = True
            elif kind.name == "unix-socket":
                left = min(max(nr, 0), there.sockets)
                surplus[kind] = nr - left
                unseen -= left
        _leave_dearest(surplus, max(unseen, 0), _BY_DESCRIPTOR)

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        doubts = []
        if self._failed:
            doubts.append(
                f"descriptors could not be read {self._failed} times, and were taken for open then"
            )
        if self._nr_hidden:
            doubts.append(
                "processes that are not dumpable may not be looked at: as many objects as they have "
                f"descriptors, {self._nr_hidden} at most, and what they may watch stayed charged"
            )
        if self._kept:
            doubts.append(
                "sockets in no table had messages that may not be looked at: what was closed stayed "
                "charged meanwhile"
            )
        return doubts

    def close(self) -> None:
        """See :class:`Part`."""
        self._unseen.close()

    def _scan(self, pids: list[int], watched: set[str]) -> Steps[Descriptors | None]:
        """Look at all tables; ``None`` if some process appeared meanwhile."""
        found = yield from count_descriptors(pids, self._known, watched, self._outside_inodes)
        late = set((yield from self._processes.list())).difference(pids)
        if late:
            # Whoever forked them may have closed, before we came to it, what they still hold.
            return None
        self._known, self.held = found.inodes, found.held
        self._failed += not found.complete
        self._nr_hidden = max(self._nr_hidden, found.hidden)
        return found if found.complete else None

    def _mapped(
        self, books: Books, counts: dict[str, int], found: Descriptors
    ) -> Steps[tuple[int, int, int]]:
        """Count files and memfds that only a mapping keeps, where any were closed at all.

        And how many more, of either kind, those may keep that may not be looked at.
        """
        file, memfd = books.kinds.get("file"), books.kinds.get("memfd")
        if (file is None or file.live <= counts["file"]) and (
            memfd is None or memfd.live <= counts["memfd"]
        ):
            return 0, 0, 0
        mapped = yield from self._spaces.look(books)
        memfds = len(mapped.memfds - found.inodes.keys())
        # Of one that could not be read nobody knows how many files it maps.
        hidden = mapped.hidden if mapped.complete else sys.maxsize
        return len(mapped.files), memfds, hidden


def _leave_dearest(surplus: dict[Kind, int], nr: int, names: tuple[str, ...]) -> None:
    """Take the *nr* dearest of the kinds *names* out of *surplus*: nothing that remains is dearer."""
    for kind in sorted(surplus, key=lambda kind: -kind.nbytes):
        if kind.name in names and kind.name not in _WATCHES:
            left = min(nr, max(surplus[kind], 0))
            surplus[kind] -= left
            nr -= left
