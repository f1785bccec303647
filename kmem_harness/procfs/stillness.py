"""Tell that no task of this host was made or has ended since a look: then it still holds.

Knows /proc/loadavg; knows no boxes. Its last two numbers are how many tasks there are on the host,
and the pid that was given out last. With both as they were, nothing was born, and so nothing has
died. Source: fs/proc/loadavg.c, kernel/fork.c (nr_threads), kernel/pid.c (v4.15 and later).
"""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["Stillness"]

#: Only there each birth on the host moves the pid given out last. Source: include/linux/proc_ns.h.
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC


class Stillness:
    """Remember how the host stood."""

    def __init__(self) -> None:
        """Know of nothing yet; where the host hides its tasks, nothing ever is still."""
        self._fd = -1
        with suppress(OSError):
            if os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE:
                self._fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._before = self._held = b""

    def lasts(self) -> bool:
        """Say whether no task was made or has ended since a look that :meth:`looked` confirmed."""
        return bool(self._held) and self._now() == self._held

    def about_to_look(self) -> None:
        """Remember how the host stands before a look."""
        self._before = self._now()

    def looked(self) -> None:
        """Keep that, if the host stands as it did: the look saw everything."""
        self._held = self._before if self._before == self._now() else b""

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _now(self) -> bytes:
        """Give "NR_TASKS LAST_PID", or nothing. Between the two loads and this are those that run."""
        if self._fd < 0:
            return b""
        with suppress(OSError):
            return os.pread(self._fd, 128, 0).partition(b"/")[2]
        return b""
