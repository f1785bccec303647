"""The part of an audit that looks at file systems: which names of a box there are.

Joins what file systems have in use with what was watched of the box's own calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.controller.audit.name_watch import NameWatch
from kmem_harness.procfs.devices import devices_in_use
from kmem_harness.procfs.file_systems import FileSystems
from kmem_harness.procfs.look_process import COUNT_INODES, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.controller.account.books import Books, Charge, Kind
    from kmem_harness.controller.audit.looks import Asker, Looks
    from kmem_harness.procfs.names import Seen
    from kmem_harness.procfs.processes import BoxProcesses
    from kmem_harness.procfs.steps import Steps

__all__ = ["NamePart"]

#: A device for names that may be on a file system that may not be looked at.
_ELSEWHERE = "elsewhere"


class NamePart:
    """Names on file systems: what was made, by what the file systems say they have in use.

    Others use the same file systems, too, so only differences count, within what this box's calls
    can have done since the last look: each may have made a name, and those watched being made did;
    no more are gone than calls may have removed, and those watched going are, once nobody holds them.
    """

    def __init__(
        self,
        init_pid: int,
        families: dict[str, dict[str, Kind]],
        processes: BoxProcesses,
        looks: Looks,
        asker: Asker,
    ) -> None:
        """Place what is charged as the dearest of each of *families*, kinds by class.

        What *init_pid* sees is looked at by *looks*, on behalf of *asker*. Raises: OSError.
        """
        self._looks = looks
        self._asker = asker
        self._systems = FileSystems(init_pid, self._figures)
        self._families = families
        self._processes = processes
        self._kinds = [kind for family in families.values() for kind in family.values()]
        self.kinds = tuple(kind.name for kind in self._kinds)
        self._used = self._systems.at_first
        #: By device: inodes in use that may be this box's.
        self._alive: dict[str, int] = {}
        self._watch = NameWatch(looks, asker)
        #: What had been made, and what was being made, when this was last looked at.
        self._made = self._under_way = 0
        #: Whether the mounts of some process could not be looked at.
        self._hidden = False

    def watch(
        self,
        tid: int,
        charge: Charge,
        notification: tuple[int, ...],
        later: Callable[[], object],
    ) -> bool:
        """Learn that *tid* is about to make or remove a name; see :meth:`NameWatch.watch`."""
        return self._watch.watch(tid, charge.syscall, notification, later)

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        found = [
            f"names on {kind} are not seen to be made or removed: it does not say how many it holds"
            for kind in sorted(self._systems.silent)
        ]
        if self._asker.late:
            found.append(
                "names are not seen to be made or removed since a look at one of them took too long"
            )
        if self._hidden:
            found.append(
                "names that a process made whose mounts may not be looked at stayed charged while it ran"
            )
        return found

    def count(self, books: Books) -> Steps[bool]:
        """See :class:`Part`."""
        if self._asker.late:
            return True  # it will never be able to look again
        sure = self._systems.see((yield from self._processes.list()))
        found = self._look()
        if found is None:
            return False
        used, seen = found
        alive = self._alive
        yield from self._forget_unmounted(used, seen)
        if sure:
            alive.pop(_ELSEWHERE, None)
        elif seen.blind:
            self._hidden = True
            alive[_ELSEWHERE] = alive.get(_ELSEWHERE, 0) + seen.blind
        least, most, may_go = self._bounds(books, seen)
        for device, now in used.items():
            # One that was mounted since begins with what was made on it.
            change = now - self._used.get(device, 0)
            if change < 0:
                change = -min(-change, may_go, alive.get(device, 0))
                may_go += change
            alive[device] = alive.get(device, 0) + change
        self._used = used
        total = sum(alive.values())
        if total > most:
            self._cut(total - most)
        elif total < least:
            # Others removed as many where we made these: on a disk, if there is one.
            device = max(alive, key=lambda one: self._systems.class_of(one) == "disk")
            alive[device] += least - total
        placed: dict[str, int] = {}
        for device, nr in alive.items():
            where = self._systems.class_of(device)
            placed[where] = placed.get(where, 0) + nr
        self._enter(books, placed)
        return True

    def _look(self) -> tuple[dict[str, int], Seen] | None:
        """Give the inodes in use and what was seen of names, if they are to be had at once."""
        seen = self._watch.settle()  # first: what is made meanwhile is not among these
        if seen is None:
            return None
        used = self._systems.used()
        if not used:
            # That takes long, or the process through which they are seen is gone: it says nothing.
            self._watch.give_back(seen)
            return None
        return used, seen

    def _bounds(self, books: Books, seen: Seen) -> tuple[int, int, int]:
        """Say how many can be alive at least and at most, and how many may have gone since."""
        made = sum(kind.charged for kind in self._kinds)
        before = sum(self._alive.values())
        most = before + made - self._made + self._under_way - seen.lost
        self._made = made
        self._under_way = sum(books.open(kind) for kind in self._kinds)
        may_go = seen.gone + seen.unsure
        return before + seen.made - may_go, max(most - seen.gone, 0), may_go

    def _forget_unmounted(self, used: dict[str, int], seen: Seen) -> Steps[None]:
        """Leave out what was on file systems that are gone, or that nobody has any more."""
        missing = (self._alive.keys() | seen.made_on.keys()) - used.keys() - {_ELSEWHERE}
        in_use = None
        if missing:
            in_use = yield from devices_in_use((yield from self._processes.list()))
        gone = self._systems.replaced | (set() if in_use is None else missing - in_use)
        for device in gone:
            self._alive.pop(device, None)
            self._used.pop(device, None)
        for device, nr in seen.made_on.items():
            # Before it, another may have had the same number.
            most = used.get(device, 0 if device in gone else nr)
            lost = max(nr - most, 0)
            seen.made -= lost
            seen.lost += lost

    def _cut(self, over: int) -> None:
        """Leave out *over* inodes that others made: on disks first, which others use most."""
        for device in sorted(self._alive, key=lambda one: self._systems.class_of(one) != "disk"):
            cut = min(over, self._alive[device])
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

    def _figures(self, places: Sequence[tuple[int, bytes]]) -> list[tuple[int, ...] | None] | None:
        """See :class:`FileSystems`."""
        requests = [Request(COUNT_INODES, pid, path=path) for pid, path in places]
        answers = self._looks.look_all(self._asker, requests)
        if answers is None:
            return None
        return [None if answer.error else answer.figures for answer in answers]

    def close(self) -> None:
        """See :class:`Part`."""
        self._watch.close()
        self._systems.close()
