"""Read what a service prints, line by line, without ever keeping it waiting."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Lines"]

_CHUNK = 65536
#: As journald's LineMax=: a longer line is cut into several.
_LONGEST = 48 * 1024


class Lines:
    """Give each line that comes out of a pipe to a callback, in the event loop."""

    def __init__(self, fd: int, take: Callable[[str], None]) -> None:
        """Read *fd*, which is closed by :meth:`close`."""
        self._fd = fd
        self._take = take
        self._rest = b""
        self._reading = True
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def close(self) -> None:
        """Read what is left, of a writer that is gone, and let go."""
        while self._reading and self._read():
            pass
        self._stop()
        if self._rest:
            self._give(self._rest)
        os.close(self._fd)

    def _read(self) -> bool:
        """Read once; say whether there may be more at once."""
        try:
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._stop()
            return False
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for line in whole:
            self._give(line)
        while len(self._rest) > _LONGEST:
            self._give(self._rest[:_LONGEST])
            self._rest = self._rest[_LONGEST:]
        return True

    def _stop(self) -> None:
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._fd)

    def _give(self, line: bytes) -> None:
        self._take(line.decode("utf-8", "replace").rstrip("\r"))
