"""Price the kinds that calls of real processes make, from a cost table. Knows no calls being made.

A table lists all that an object takes; here an object is what lasts, and what a name costs is kept
apart from the file that is opened with it.
"""

from __future__ import annotations

import errno
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from kmem_harness.costs.kinds import DIRECTORY, INODE, SYSCALL_KINDS, Modelled

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from kmem_harness.costs.table import CostTable, Kind

__all__ = ["PLACED", "LiveKind", "live_kinds", "makers", "only_kinds"]

#: The kinds a name may turn out to be, by the class of its file system; the dearest comes last.
PLACED = {
    DIRECTORY: {"tmpfs": "dir-tmpfs", "disk": "dir-ext4"},
    INODE: {"tmpfs": "file-tmpfs", "disk": "file-ext4"},
}
#: What no call asks for by itself, by what it comes with: it is found at a census.
_FOUND = {"task": ("exec", "zombie"), "vma": ("page-table",)}


class LiveKind(NamedTuple):
    """What one object costs, and what making one fails with.

    :param included: so many in each process are part of its task's price.
    """

    nbytes: int
    errno: int
    errno_name: str
    included: int = 0

    def request(self) -> dict[str, Any]:
        """Give it as a control request carries it."""
        return self._asdict()


def live_kinds(table: CostTable) -> dict[str, LiveKind]:
    """Find what *table* charges of all that calls can make. Shape: by kind."""
    wanted = dict.fromkeys(
        kind
        for entry in SYSCALL_KINDS.values()
        if isinstance(entry, Modelled)
        for case in entry.cases
        for kind in case.all_kinds
    )
    names: list[str] = []
    for kind in (*wanted, *chain.from_iterable(_FOUND.values())):
        names += PLACED[kind].values() if kind in PLACED else [kind]
    return {
        name: _live(table.kinds[name])
        for name in names
        if name in table.kinds and table.kinds[name].nbytes
    }


def makers(kinds: Iterable[str]) -> Iterator[tuple[str, str]]:
    """List which call makes which of *kinds*, each pair once."""
    known = set(kinds)
    for syscall, entry in SYSCALL_KINDS.items():
        if isinstance(entry, Modelled):
            made = dict.fromkeys(kind for case in entry.cases for kind in case.all_kinds)
            for kind in made:
                for name in PLACED[kind].values() if kind in PLACED else (kind,):
                    if name in known:
                        yield syscall, name


def only_kinds(kinds: Mapping[str, LiveKind], chosen: Container[str]) -> dict[str, LiveKind]:
    """Leave out what was not *chosen*; tasks and threads stay, at no cost."""
    names = {
        name for family, placed in PLACED.items() if family in chosen for name in placed.values()
    }
    names.update(*(found for kind, found in _FOUND.items() if kind in chosen))
    return {
        name: kind._replace(nbytes=kind.nbytes if name in chosen or name in names else 0)
        for name, kind in kinds.items()
        if name in chosen or name in names or name in ("task", "thread")
    }


def _live(kind: Kind) -> LiveKind:
    # What is freed again before the call returns, or with the descriptor, is not the name's.
    nbytes = round(sum(part.nbytes / part.every for part in kind.parts if part.freed != "early"))
    placed = any(kind.name in kinds.values() for kinds in PLACED.values())
    # On which file system a name would have been made is not known when it is refused.
    name = "ENOMEM" if placed else errno.errorcode[kind.errno]
    return LiveKind(nbytes, getattr(errno, name), name, kind.included)
