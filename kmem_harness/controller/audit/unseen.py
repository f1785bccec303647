"""What no table shows of descriptors: sockets in messages, and tables that may not be looked at.

Joins the list of all unix sockets with what is known of the box and of others. Knows no books.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from kmem_harness.procfs.unix_sockets import (
    UnixSockets,
    backlogs_are_counted,
    held_by,
    held_outside,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.procfs.steps import Steps
    from kmem_harness.procfs.unix_sockets import UnixSocket

__all__ = ["OutOfTables", "UnseenSockets"]


#: Another's socket may be in a message, too, while the tables of all are looked through.
_TRIES = 2


class OutOfTables(NamedTuple):
    """Unix sockets in no table that may be looked at: how many, and whether nothing waits at any."""

    sockets: int
    are_empty: bool


class UnseenSockets:
    """The unix sockets of one box that are in no table."""

    def __init__(self, pids: list[int]) -> None:
        """Leave out what there is now: others made it."""
        self._sockets = UnixSockets()
        self._others = {found.inode for found in self._sockets.list(pids) or []}
        #: In no table of anybody's at the last look: they are this box's, or may be.
        self._own: set[int] = set()

    def look(self, pids: list[int], seen: Iterable[str]) -> Steps[OutOfTables | None]:
        """Find those of *pids* that are not among *seen*, links of descriptors; ``None`` if nobody can."""
        inodes = {int(link[8:-1]) for link in seen if link.startswith("socket:[")}
        unseen = self._list(pids, inodes)
        for _ in range(_TRIES):
            if unseen is None or (
                unseen.keys() <= self._own and all(one.is_empty for one in unseen.values())
            ):
                break
            outside, ours = (yield from held_outside(pids)), held_by(os.getpid())
            self._others |= {
                one.inode
                for one in unseen.values()
                # We have made those that are connected with ours, for the processes that help us.
                if one.inode in outside or one.peer in ours
            }
            # Some were of processes that have ended meanwhile; nothing of the box is new since.
            there = self._list(pids, inodes)
            if there is None:
                return None
            unseen = {inode: one for inode, one in there.items() if inode in unseen}
            self._own = set(unseen)
        if unseen is None:
            return None
        return OutOfTables(len(unseen), all(one.is_empty for one in unseen.values()))

    def _list(self, pids: list[int], seen: set[int]) -> dict[int, UnixSocket] | None:
        """List by inode those that may be this box's, as far as can be told by them alone."""
        found = self._sockets.list(pids)
        if found is None:
            return None
        self._others &= {one.inode for one in found}
        me = os.geteuid()
        return {
            one.inode: one
            for one in found
            if one.inode not in seen
            and one.inode not in self._others
            and (not me or one.uid == me)
            # One that nobody has accepted yet has none.
            and (one.inode or not backlogs_are_counted())
        }

    def close(self) -> None:
        """Let go of what asks."""
        self._sockets.close()
