"""Remove what controllers left behind that were killed together with their owners.

Knows how their directories are named and that a living one listens; removes nothing that anybody
might still be starting.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time

from kmem_harness.controller.owner.removal import remove_tree

__all__ = ["remove_abandoned"]

#: A directory is there a moment before its controller listens in it.
_YOUNG_SECONDS = 60.0


def remove_abandoned(own: str) -> list[str]:
    """Remove the directories beside *own*, named alike, whose controllers are no more; list them."""
    base, name = os.path.split(own)
    prefix = name.rsplit("-", 2)[0] + "-"  # what follows are a pid and a random number
    found = [
        entry.path
        for entry in os.scandir(base)
        if entry.name.startswith(prefix) and entry.name != name and _is_abandoned(entry.path)
    ]
    for path in found:
        remove_tree(path)
    return found


def _is_abandoned(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:  # it is just being removed
        return False
    young = time.time() - status.st_mtime < _YOUNG_SECONDS
    if young or status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as knock:
        # Who listens and is busy is EAGAIN.
        return knock.connect_ex(f"{path}/control.sock") in (errno.ECONNREFUSED, errno.ENOENT)
