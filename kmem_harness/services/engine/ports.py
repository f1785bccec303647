"""Find the TCP ports that processes listen on. Reads /proc; knows no services."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["listening_ports"]

_LISTENING = "0A"
_SOCKET = "socket:["


def listening_ports(pids: Iterable[int]) -> list[int]:
    """List the TCP ports on which the processes *pids* of this host listen, lowest first.

    Processes that are gone, or may not be looked at, have none.
    """
    found: set[int] = set()
    for pid in pids:
        with suppress(OSError):
            inodes = _sockets(pid)
            if inodes:
                found |= {port for inode, port in _listeners(pid) if inode in inodes}
    return sorted(found)


def _sockets(pid: int) -> set[str]:
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            if target.startswith(_SOCKET):
                inodes.add(target[len(_SOCKET) : -1])
    return inodes


def _listeners(pid: int) -> list[tuple[str, int]]:
    """List (inode, port) of the listening sockets in the network namespace of *pid*."""
    found = []
    for table in ("tcp", "tcp6"):
        with suppress(OSError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
            for line in file.readlines()[1:]:
                words = line.split()
                if words[3] == _LISTENING:
                    found.append((words[9], int(words[1].rpartition(":")[2], 16)))
    return found
