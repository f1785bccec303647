"""Tell who is at the other end of a control connection. Knows sockets and procfs; decides nothing.

Whoever runs in a box is our own user, too, and sees our files: its user id says nothing.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.procfs.readable import is_readable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["credentials_of", "is_within", "parent_of"]

_CREDENTIALS = struct.Struct("=iII")  # struct ucred
_SO_PEERPIDFD = 77  # since Linux 6.5
#: A parent may die while its child is looked at: then the chain is walked again, so many times.
_WALKS = 5


def credentials_of(peer: socket.socket) -> tuple[int, int]:
    """Give the pid and the user id of whoever connected. Raises: OSError if it hung up."""
    given = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(given)
    return pid, uid


def is_within(peer: socket.socket, inits: Collection[int]) -> bool:
    """Say whether whoever connected is in a box, of which *inits* are the first processes.

    It is if one of them is its ancestor, or shares a pid namespace of its own with it or with an
    ancestor of it. A process that is gone may have been anybody's, and so counts as one of a box.
    """
    pid, _ = credentials_of(peer)
    try:
        pidfd = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:  # an older kernel; or the process is gone, as will show
        return _descends(pid, inits)
    try:
        # Its number cannot have been given to another one as long as it lives.
        return _descends(pid, inits) or is_readable(pidfd, 0)
    finally:
        os.close(pidfd)


def parent_of(pid: int) -> int:
    """Give the pid of a process's parent, 0 if that cannot be seen from here. Raises: OSError."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return int(stat.read().rpartition(b") ")[2].split()[1])


def _descends(pid: int, inits: Collection[int]) -> bool:
    if not pid:  # in a pid namespace above or beside ours, where no box can be
        return False
    theirs = set()
    for init in inits:
        with suppress(OSError):  # that box is over
            theirs.add(_namespace(init))
    theirs -= {_namespace("self"), ""}
    for _ in range(_WALKS):
        with suppress(OSError):
            return any(one in inits or _namespace(one) in theirs for one in _lineage(pid))
    return True


def _lineage(pid: int) -> Iterator[int]:
    while pid:
        yield pid
        pid = parent_of(pid)


def _namespace(pid: int | str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except PermissionError:  # it hides itself, or is another user's; its parents tell
        return ""
