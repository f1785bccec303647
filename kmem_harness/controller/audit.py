"""Find out what is alive in one box, part by part, each as often as its cost allows.

Knows the books and the censuses of the interposer; decides nothing about calls. A part that was
counted after a call was trapped is fresh: what it left on the books is really there, or under way.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from kmem_harness.interposer.descriptors import Descriptors, count_descriptors
from kmem_harness.interposer.memory_maps import AddressSpaces, Sum
from kmem_harness.interposer.removals import Removals, held_unlinked
from kmem_harness.interposer.system_v import count_system_v

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.books import Books, Charge, Kind
    from kmem_harness.interposer.census import TaskCensus
    from kmem_harness.interposer.file_systems import FileSystems
    from kmem_harness.interposer.processes import BoxProcesses

__all__ = ["Audit", "Part"]

#: Before a refusal, a part this quick is counted again each time; a slower one gets at most 1/5 of
#: the time. For a peak that is to be true, each gets 1/10.
_QUICK_SECONDS = 0.000_25
_REST = 4.0
_LONG_REST = 9.0

_SOCKETS = ("unix-socket", "tcp-socket", "tcp6-socket", "udp-socket", "netlink-socket")
_WATCHES = ("epoll-watch", "inotify-watch")
_BY_DESCRIPTOR = (*_SOCKETS, "file", "pipe", "anon-file", "inotify", "memfd", *_WATCHES)
_GROWING = ("vma", "page-table", "descriptor-table")
_SYSTEM_V = ("sysv-sem", "sysv-msg", "sysv-shm")


class Part(Protocol):
    """One part of what is alive."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Name the kinds it counts."""

    def count(self, books: Books) -> None:
        """Look, and bring *books* up to date."""

    def potential(self, books: Books) -> int:
        """Say how many bytes a look could take back at most."""

    def close(self) -> None:
        """Let go of what is held open."""


class _Timed:
    """A part, and what it has cost so far. Units: seconds."""

    __slots__ = ("began", "count", "last", "part", "total")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.began = 0.0
        self.count = 0
        self.last = 0.0
        self.total = 0.0

    @property
    def cost(self) -> float:
        """What a look costs: the average keeps one that was held up from looking like a large box."""
        return min(self.last, self.total / self.count) if self.count else 0.0

    def is_due(self, now: float, rest: float) -> bool:
        """Say whether it has rested *rest* times as long as it took."""
        return now >= self.began + self.cost * (1 + rest)

    def run(self, books: Books) -> None:
        self.began = began = time.monotonic()
        self.part.count(books)
        self.last = time.monotonic() - began
        self.total += self.last
        self.count += 1


class Audit:
    """The parts of one box, the cheapest first."""

    def __init__(self, books: Books, parts: list[Part]) -> None:
        """Count *parts*, as far as the books have their kinds, into *books*."""
        self._books = books
        self._parts = [
            _Timed(part) for part in parts if any(kind in books.kinds for kind in part.kinds)
        ]

    @property
    def count(self) -> int:
        """How many looks there were at the part looked at most often."""
        return max((timed.count for timed in self._parts), default=0)

    @property
    def seconds(self) -> float:
        """What all looks together have cost."""
        return sum(timed.total for timed in self._parts)

    def all_parts(self) -> None:
        """Count everything now."""
        for timed in self._parts:
            timed.run(self._books)

    def parts_for(self, shortfall_nbytes: int, now: float, *, forced: bool) -> bool:
        """Count parts until *shortfall_nbytes* are free, or it is certain that they are not.

        False if a part that might have freed them was left out because it was counted just now;
        *forced* leaves none out.
        """
        books = self._books
        target = books.lowered_nbytes + shortfall_nbytes
        sure = True
        for number, timed in enumerate(self._parts):
            if books.lowered_nbytes >= target:
                break
            left = sum(later.part.potential(books) for later in self._parts[number:])
            if left < target - books.lowered_nbytes:
                break  # however much of it is gone, it is not enough
            if forced or timed.cost < _QUICK_SECONDS or timed.is_due(now, _REST):
                timed.run(books)
            else:
                sure = False
        return sure

    def due_parts(self, now: float) -> None:
        """Count what is due, for a peak that is to be true."""
        for timed in self._parts:
            if timed.is_due(now, _LONG_REST):
                timed.run(self._books)

    def close(self) -> None:
        """Let go of what the parts hold open."""
        for timed in self._parts:
            with suppress(OSError):
                timed.part.close()


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

    def close(self) -> None:
        """See :class:`Part`."""
        self._census.close()


class DescriptorPart:
    """Open files, sockets, pipes and the like, in tables and in messages under way."""

    kinds = _BY_DESCRIPTOR

    def __init__(self, processes: BoxProcesses, spaces: SpacePart) -> None:
        """Count what *processes* hold; *spaces* knows the mappings that keep closed files."""
        self._processes = processes
        self._spaces = spaces
        self._known: dict[str, str] = {}
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
        counts = {name: found.kinds[name] for name in _BY_DESCRIPTOR if name in kinds}
        for inode in self._outside_inodes & found.inodes.keys():
            counts[found.inodes[inode]] -= 1
        if found.in_flight:
            unix = kinds.get("unix-socket")
            if unix is None or unix.live - books.open(unix) > counts["unix-socket"]:
                return  # a socket that is itself in a message may hold any number of descriptors
            counts = {name: nr + found.in_flight for name, nr in counts.items()}
        files, memfds = self._mapped(books, counts, found)
        counts["file"] = counts.get("file", 0) + files
        counts["memfd"] = counts.get("memfd", 0) + memfds
        sockets = {name: counts.pop(name) for name in _SOCKETS if name in counts}
        books.reconcile(sockets)
        for name, nr in counts.items():
            books.reconcile({name: nr})

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def close(self) -> None:
        """See :class:`Part`."""

    def _scan(self, watched: set[str]) -> Descriptors | None:
        """Look at all tables, and at those of processes that appeared meanwhile."""
        pids = self._processes.list()
        found = count_descriptors(pids, self._known, watched)
        late = set(self._processes.list()).difference(pids)
        if late:
            # Whoever forked them may have closed, before we came to it, what they still hold.
            return None
        self._known = found.inodes
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
        *,
        bounded: bool,
    ) -> None:
        """Look at *processes*, of which *outside* were made outside and so are not charged."""
        self._processes = processes
        self._outside = outside
        self._spaces = AddressSpaces(included)
        self._bounded = bounded

    def look(self) -> Sum:
        """Sum up the address spaces as they are now."""
        return self._spaces.sum(self._processes.list())

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

    def close(self) -> None:
        """See :class:`Part`."""


class NamePart:
    """Names on file systems: what was made, by what the file systems say they have in use.

    Others use the same file systems, too, so only differences count, within what this box's calls
    can have done since the last look: each may have made a name; as many as were watched being
    removed, and are held by nobody, are gone; no more are gone than calls may have removed.
    """

    def __init__(
        self,
        systems: FileSystems,
        families: dict[str, dict[str, Kind]],
        processes: BoxProcesses,
    ) -> None:
        """Place what is charged as the dearest of each of *families*, kinds by class."""
        self._systems = systems
        self._families = families
        self._processes = processes
        self._kinds = [kind for family in families.values() for kind in family.values()]
        self.kinds = tuple(kind.name for kind in self._kinds)
        self._used = systems.used()
        #: By device: inodes in use that may be this box's.
        self._alive: dict[str, int] = {}
        self._evidence = Removals(time.time())
        self._held: set[tuple[int, int]] = set()
        #: What had been made, and what was being made, when this was last looked at.
        self._made = self._under_way = 0
        #: Calls that may have removed a name, or will when what they removed is let go.
        self._removals = 0

    def removes(self, tid: int, charge: Charge, notification: tuple[int, ...]) -> None:
        """Learn that *tid* is about to remove a name."""
        self._removals += 1
        self._evidence.watch(tid, charge.syscall, notification)

    def count(self, books: Books) -> None:
        """See :class:`Part`."""
        proven = self._evidence.settle()  # first: it holds what it watches
        used = self._systems.used()
        most = self._most(books, proven)
        alive = self._alive
        for device, now in used.items():
            change = now - self._used.get(device, now)
            if change < 0:
                change = -min(-change, self._removals, alive.get(device, 0))
                self._removals += change
            alive[device] = alive.get(device, 0) + change
        self._used = used
        self._cut(sum(alive.values()) - most)
        placed: dict[str, int] = {}
        for device, nr in alive.items():
            where = self._systems.class_of(device)
            placed[where] = placed.get(where, 0) + nr
        self._enter(books, placed)

    def _most(self, books: Books, proven: int) -> int:
        """Say how many can be alive at most, by what was called."""
        made = sum(kind.charged for kind in self._kinds)
        under_way = sum(books.open(kind) for kind in self._kinds)
        most = sum(self._alive.values()) + made - self._made + self._under_way
        self._made, self._under_way = made, under_way
        held = held_unlinked(self._processes.list()) if proven else None
        if held is not None:
            # One that still is in use was counted among the removed.
            most -= proven - len(held - self._held)
        self._held = held or set()
        return max(most, 0)

    def _cut(self, over: int) -> None:
        """Leave out *over* inodes that others made: on disks first, which others use most."""
        for device in sorted(self._alive, key=lambda one: self._systems.class_of(one) != "disk"):
            cut = min(max(over, 0), self._alive[device])
            self._alive[device] -= cut
            over -= cut

    def _enter(self, books: Books, placed: dict[str, int]) -> None:
        """Bring the books of each class to what was *placed* there."""
        dearest = "disk"
        for where, nr in placed.items():
            if where == dearest:
                continue
            here = [family[where] for family in self._families.values()]
            missing = nr - sum(kind.live for kind in here)
            # Files first: that takes back less, should it have been the other kind.
            for family in reversed(list(self._families.values())):
                source = family[dearest]
                move = min(missing, source.live - books.open(source))
                if move > 0:
                    books.move(source, family[where], move)
                    missing -= move
        for where in ("tmpfs", "disk"):
            here = [family[where] for family in self._families.values()]
            spare = sum(kind.live - books.open(kind) for kind in here) - placed.get(where, 0)
            for kind in sorted(here, key=lambda kind: kind.nbytes):
                gone = min(spare, kind.live - books.open(kind))
                if gone > 0:
                    books.lower(kind, gone)
                    spare -= gone
        # What cannot be ours after all, for the books never held it, was made by others.
        for device in self._alive:
            where = self._systems.class_of(device)
            over = placed.get(where, 0) - sum(
                family[where].live for family in self._families.values()
            )
            if over > 0:
                taken = min(over, self._alive[device])
                self._alive[device] -= taken
                placed[where] -= taken

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        return books.nbytes_of(self.kinds)

    def close(self) -> None:
        """See :class:`Part`."""
        self._evidence.close()
        self._systems.close()


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

    def close(self) -> None:
        """See :class:`Part`."""
