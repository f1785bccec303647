"""Say a last word to the engines of containers whose owner is gone. Knows sockets, not engines.

What is to be said was composed by the owner while it lived: the controller only delivers it.
"""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Legacy", "carry_out"]

_PATIENCE_SECONDS = 10.0


class Legacy(NamedTuple):
    """A *message* for the unix socket at *socket*."""

    socket: str
    message: bytes


def carry_out(legacies: Iterable[Legacy]) -> None:
    """Deliver each; wait, all together for some seconds, until they have been answered."""
    waiting: dict[int, socket.socket] = {}
    poll = select.poll()
    for legacy in legacies:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            connection.connect(legacy.socket)
            connection.sendall(legacy.message)
        except OSError:  # that engine is gone, too
            connection.close()
            continue
        waiting[connection.fileno()] = connection
        poll.register(connection, select.POLLIN)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while waiting and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            with suppress(OSError):
                waiting[fd].recv(4096)
            poll.unregister(fd)
            waiting.pop(fd).close()
    for connection in waiting.values():
        connection.close()
