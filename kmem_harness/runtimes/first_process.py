"""Know when the first process of a container's current run has ended. Knows pids; knows no engine."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from kmem_harness.procfs.readable import is_readable

__all__ = ["FirstProcess"]


class FirstProcess:
    """A container's first process: a pidfd where it can be seen, else a pipe that somebody cuts."""

    def __init__(self) -> None:
        """Hold none yet."""
        self.pid = 0
        #: Readable once it has ended.
        self.fd = -1
        self._lifeline = -1
        self._cutting = threading.Lock()

    def hold(self, pid: int, *, seen: bool) -> None:
        """Let go of the last one and hold *pid*, 0 for one that is over already.

        Where it cannot be *seen* from here, somebody must :meth:`cut` at its end.
        """
        self.drop()
        self.pid = pid
        if not pid:
            return
        if seen:
            with suppress(ProcessLookupError):
                self.fd = os.pidfd_open(pid)
        else:
            self.fd, self._lifeline = os.pipe()

    def cut(self) -> None:
        """Let those go on who wait for the end of a process that cannot be seen from here."""
        with self._cutting:
            lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)

    def is_alive(self) -> bool:
        """Say whether it is held and has not ended."""
        return self.fd >= 0 and not is_readable(self.fd, 0)

    def await_end(self, seconds: float | None) -> None:
        """Wait until it has ended, at most *seconds*."""
        if self.fd >= 0:
            is_readable(self.fd, seconds)

    def drop(self) -> None:
        """Let go of it."""
        self.cut()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
