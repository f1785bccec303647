"""Ask for names to be watched while calls make and remove them: a file system's count blurs others.

A path in the target's memory only says where to look. That a name is gone is proven by the end of
the inode that was found there; that one was made, by its directory. Knows calls and their arguments;
what there is to look at is ``interposer/native/look.c``'s business.
"""

from __future__ import annotations

import os
import time
from collections import Counter

from kmem_harness.procfs.look_process import WATCH_MAKING, WATCH_REMOVAL, LookProcess, Request

__all__ = ["REMOVALS", "Seen", "is_placed", "now", "tells_births", "watching"]

_AT_FDCWD = -100
#: Where in a notification the arguments begin, and for each call its directory and its path.
_ARGUMENTS = 6
REMOVALS = {
    "unlink": (None, 0),
    "rmdir": (None, 0),
    "unlinkat": (0, 1),
    "rename": (None, 1),
    "renameat": (2, 3),
    "renameat2": (2, 3),
}
_PLACES = REMOVALS | {
    "open": (None, 0),
    "creat": (None, 0),
    "mkdir": (None, 0),
    "mknod": (None, 0),
    "symlink": (None, 1),
    "openat": (0, 1),
    "mkdirat": (0, 1),
    "mknodat": (0, 1),
    "symlinkat": (1, 2),
    "openat2": (0, 1),
    # A socket's path stands behind its family.
    "bind": (None, 1),
}
_BEHIND = {"bind": 2}
#: The clock that births are stamped with, which another one may be ahead of by a tick and more.
_CLOCK_REALTIME_COARSE = 5  # include/uapi/linux/time.h
_SIGN = 1 << 31
_WORD = (1 << 64) - 1


class Seen:
    """What calls did: names ``made`` and inodes ``gone``, each proven; ``unsure``: perhaps gone.

    ``made_on``: how many were made by device, as mountinfo names it. ``blind``: names that may have
    been made by threads which may not be looked at; ``lost``: made, but not among ``made``, for their
    file system is gone.
    """

    def __init__(self, made: int = 0, gone: int = 0, unsure: int = 0) -> None:
        """Nothing else yet."""
        self.made = made
        self.made_on: Counter[str] = Counter()
        self.gone = gone
        self.unsure = unsure
        self.blind = 0
        self.lost = 0


def now() -> int:
    """Say after what stamp an inode is one of a box that begins now."""
    # By a finer clock, what is born before its next tick, which may be all that a limit admits,
    # would be taken for older.
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def is_placed(syscall: str) -> bool:
    """Say whether an argument of *syscall* says which name it is about."""
    return syscall in _PLACES


def watching(tid: int, syscall: str, notification: tuple[int, ...], began: int) -> Request:
    """Ask for a look at what *tid* is about to do, and at what became of what it did before.

    Of what is removed only inodes born from *began* on count: others are not the box's own.
    """
    directory, path = _PLACES[syscall]
    at = _AT_FDCWD
    if directory is not None:
        at = ((notification[_ARGUMENTS + directory] + _SIGN) & 0xFFFFFFFF) - _SIGN
    return Request(
        WATCH_REMOVAL if syscall in REMOVALS else WATCH_MAKING,
        tid,
        notification[_ARGUMENTS + path] + _BEHIND.get(syscall, 0) & _WORD,
        directory=at,
        flags=began,
    )


def tells_births() -> bool:
    """Say whether a file in the temporary directory says when it was born, and that it is gone."""
    import ctypes  # noqa: PLC0415 - for doctor alone, and slow
    import tempfile  # noqa: PLC0415

    process = LookProcess()
    try:
        with tempfile.NamedTemporaryFile() as file:
            text = ctypes.create_string_buffer(os.fsencode(file.name))
            words = (*[0] * _ARGUMENTS, ctypes.addressof(text))
            process.send(watching(os.getpid(), "unlink", words, 0).packet(0, 0))
            answer = process.receive()
        return answer is not None and bool(answer.figures[3])
    finally:
        os.close(process.end())
        os.waitpid(process.pid, 0)
