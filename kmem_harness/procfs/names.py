"""Watch names being made and removed, where a file system's own count is blurred by others.

A path in the target's memory only says where to look. That a name is gone is proven by a link
count of 0 on the inode that was found there; that one was made, by an inode there that is younger
than the call. Knows procfs and statx; knows no prices.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.procfs.descriptors import waiting_descriptors
from kmem_harness.procfs.libc import libc
from kmem_harness.procfs.pids import numbers_in
from kmem_harness.procfs.processes import blocks_of
from kmem_harness.procfs.steps import in_steps
from kmem_harness.procfs.target_memory import read_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.procfs.steps import Steps

__all__ = ["REMOVALS", "NameWatch", "Seen", "held_unlinked", "tells_births"]

_AT_FDCWD = 0xFFFFFF9C
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
}
_MAPPED = re.compile(
    rb"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) ([1-9]\d*) .*\(deleted\)$", re.MULTILINE
)
_MOST_WATCHED = 256
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: The clock that births are stamped with, which another one may be ahead of by a tick and more.
_CLOCK_REALTIME_COARSE = 5  # include/uapi/linux/time.h
#: What a file system may cut off a stamp: most keep all of it, some hundredths of a second.
_CUT_OFF_NS = 10_000_000

# struct statx (include/uapi/linux/stat.h): stx_mask, stx_nlink at 16, stx_ino at 32, stx_btime at
# 80, stx_dev_major and stx_dev_minor at 136.
_NR_STATX = {"x86_64": 332, "aarch64": 291}.get(os.uname().machine)
_STATX = struct.Struct("=I12xI12xQ40xqI44xII")
_ON_DESCRIPTOR = 0x1000  # AT_EMPTY_PATH
_ON_NAME = 0x0900  # AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT: as an open for O_PATH
_WANTED = 0x0904  # STATX_BTIME, STATX_INO, STATX_NLINK
_STATX_BTIME = 0x800


class Seen:
    """What calls did: names ``made`` and inodes ``gone``, each proven; ``unsure``: perhaps gone.

    ``made_on``: how many were made by device, as mountinfo names it. ``blind``: names that may have
    been made by threads which may not be looked at; ``lost``: made, but not among ``made``, for their
    file system is gone.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self.made = 0
        self.made_on: Counter[str] = Counter()
        self.gone = 0
        self.unsure = 0
        self.blind = 0
        self.lost = 0


class NameWatch:
    """Watch the calls of one box that make and remove names, one for each thread.

    Of what is removed only inodes with one name count, born after the box: others are not its own.
    """

    def __init__(self) -> None:
        """Take for the box's own what is born from now on."""
        # By the clock that inodes are stamped with: by a finer one, what is born before its next tick,
        # which may be all that a limit admits, would be taken for older.
        self._began = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
        #: By thread: the inode it may be removing.
        self._going: dict[int, int] = {}
        #: By thread: the directory, the path in it, and when it was asked for.
        self._coming: dict[int, tuple[int, bytes, int]] = {}
        self._buffer = ctypes.create_string_buffer(256)
        self._seen = Seen()
        self._made: set[tuple[int, int, int]] = set()

    def watch(self, tid: int, syscall: str, notification: tuple[int, ...]) -> None:
        """Look at what *tid* is about to do, and at what became of what it did before."""
        self._judge(tid, over=True)
        if len(self._going) + len(self._coming) >= _MOST_WATCHED:
            self._seen.unsure += syscall in REMOVALS
            return
        with suppress(OSError, ValueError):
            try:
                base, path = _place(tid, syscall, notification)
            except PermissionError:
                self._seen.blind += syscall not in REMOVALS
                self._seen.unsure += syscall in REMOVALS
                return
            try:
                if syscall in REMOVALS:
                    self._watch_going(tid, os.open(path, _LOOK, dir_fd=base))
                else:
                    self._coming[tid] = (base, path, time.clock_gettime_ns(_CLOCK_REALTIME_COARSE))
                    base = -1
            finally:
                if base >= 0:
                    os.close(base)

    def settle(self) -> Seen:
        """Judge what is watched, and give what was seen since the last time.

        A call that has shown no effect yet stays watched: it may be about to run.
        """
        for tid in [*self._going, *self._coming]:
            self._judge(tid, over=not os.path.exists(f"/proc/{tid}"))
        seen, self._seen = self._seen, Seen()
        seen.made = len(self._made)
        seen.made_on.update(f"{major}:{minor}" for major, minor, _ in self._made)
        self._made.clear()
        return seen

    def close(self) -> None:
        """Let go of all."""
        for tid in [*self._going, *self._coming]:
            self._judge(tid, over=True)

    def _judge(self, tid: int, *, over: bool) -> None:
        """See what became of what *tid* was about to do; *over*: that call has returned."""
        going = self._going.get(tid, -1)
        if going >= 0:
            gone = not os.fstat(going).st_nlink
            self._seen.gone += gone
            if gone or over:
                del self._going[tid]
                os.close(going)
        coming = self._coming.get(tid)
        if coming is not None and (self._is_made(*coming) or over):
            del self._coming[tid]
            os.close(coming[0])

    def _is_made(self, base: int, path: bytes, asked: int) -> bool:
        found = self._look(base, path, _ON_NAME)
        if found is None:
            return False
        nr_links, born, inode = found
        made = nr_links > 0 and born >= asked - _CUT_OFF_NS
        if made:
            self._made.add(inode)
        return made

    def _watch_going(self, tid: int, fd: int) -> None:
        born = self._birth(fd)
        if born >= self._began:
            self._going[tid] = fd
        else:
            self._seen.unsure += not born
            os.close(fd)

    def _birth(self, fd: int) -> int:
        """Say when an inode was born, in nanoseconds since the epoch; 0 if nobody knows."""
        found = self._look(fd, b"", _ON_DESCRIPTOR)
        return 0 if found is None else found[1]

    def _look(
        self, fd: int, path: bytes, flags: int
    ) -> tuple[int, int, tuple[int, int, int]] | None:
        """Give an inode's links, its birth as :meth:`_birth` does, and which it is."""
        if _NR_STATX is None or libc().syscall(_NR_STATX, fd, path, flags, _WANTED, self._buffer):
            return None
        known, nr_links, number, seconds, nanoseconds, *device = _STATX.unpack_from(self._buffer)
        born = seconds * 1_000_000_000 + nanoseconds if known & _STATX_BTIME else 0
        return nr_links, born, (*device, number)


def tells_births() -> bool:
    """Say whether a file in the temporary directory says when it was born."""
    import tempfile  # noqa: PLC0415 - for doctor alone, and slow

    with tempfile.TemporaryFile() as file:
        return NameWatch()._birth(file.fileno()) > 0  # noqa: SLF001 - this module's own


def _place(tid: int, syscall: str, notification: tuple[int, ...]) -> tuple[int, bytes]:
    """Say where the path of a call leads: a directory, open, and a path in it. Raises: OSError."""
    directory, path = _PLACES[syscall]
    text = read_text(tid, notification[_ARGUMENTS + path])
    at = _AT_FDCWD
    if directory is not None:
        at = notification[_ARGUMENTS + directory] & 0xFFFFFFFF
    if text.startswith(b"/"):
        base = f"/proc/{tid}/root"
        text = text.lstrip(b"/") or b"."
    elif at == _AT_FDCWD:
        base = f"/proc/{tid}/cwd"
    else:
        base = f"/proc/{tid}/fd/{at}"
    return os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), text


def held_unlinked(pids: Iterable[int]) -> Steps[set[tuple[int, int]] | None]:
    """Find the inodes without a name that *pids* hold, as (device, inode).

    By descriptors, directories they are in, and mappings. ``None`` where that cannot be told: one of
    them may not be looked at, or descriptors are in messages under way.
    """
    held: set[tuple[int, int]] = set()
    try:
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                for name in ("cwd", "root"):
                    _climb(f"/proc/{pid}/{name}", held)
                for number, ends_step in in_steps((yield from numbers_in(f"/proc/{pid}/fd"))):
                    if ends_step:
                        yield
                    with suppress(FileNotFoundError):
                        link = f"/proc/{pid}/fd/{number}"
                        target = os.readlink(link)
                        if target.startswith("socket:") and waiting_descriptors(pid, number):
                            return None
                        if target.startswith("/") and target.endswith(" (deleted)"):
                            _climb(link, held)
                yield from _add_mapped(pid, held)
            yield
    except OSError:
        return None
    return held


def _add_mapped(pid: int, held: set[tuple[int, int]]) -> Steps[None]:
    for lines in blocks_of(f"/proc/{pid}/maps"):
        for major, minor, inode in _MAPPED.findall(lines):
            held.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
        yield


def _climb(link: str, held: set[tuple[int, int]]) -> None:
    """Add what *link* leads to, and the directories above it that it keeps, while they have no name."""
    fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        while True:
            status = os.fstat(fd)
            key = (status.st_dev, status.st_ino)
            if status.st_nlink or key in held:
                return
            held.add(key)
            if not os.path.isdir(f"/proc/self/fd/{fd}"):
                return
            above = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = above
    finally:
        os.close(fd)
