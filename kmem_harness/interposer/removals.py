"""Prove that calls removed inodes, where a file system's own count is blurred by others.

What a path in the target's memory names is only where to look: the proof is a link count of 0 on
the inode that was found there, which no rewriting of memory can bring about. Knows procfs and
statx; knows no prices.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from contextlib import suppress

from kmem_harness.interposer.descriptors import waiting_descriptors
from kmem_harness.interposer.processes import read_file

__all__ = ["Removals", "held_unlinked"]

_PATH_MAX = 4096
_AT_FDCWD = 0xFFFFFF9C
#: Where in a notification the arguments begin, and for each call its directory and its path.
_ARGUMENTS = 6
_PLACES = {
    "unlink": (None, 0),
    "rmdir": (None, 0),
    "unlinkat": (0, 1),
    "rename": (None, 1),
    "renameat": (2, 3),
    "renameat2": (2, 3),
}
_MAPPED = re.compile(
    rb"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) ([1-9]\d*) .*\(deleted\)$", re.MULTILINE
)
_MOST_WATCHED = 256
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

# struct statx (include/uapi/linux/stat.h): stx_mask first, stx_btime at 80.
_NR_STATX = {"x86_64": 332, "aarch64": 291}.get(os.uname().machine)
_AT_EMPTY_PATH = 0x1000
_STATX_BTIME = 0x800
_BTIME = struct.Struct("=qI")


class Removals:
    """Watch the inodes that calls under way may remove.

    Only inodes with one name, born after the box: others are not the box's own.
    """

    def __init__(self, began: float) -> None:
        """Take for the box's own what was born from *began* on, in seconds since the epoch."""
        self._began = began
        self._watched: dict[int, int] = {}
        self._libc = ctypes.CDLL(None)
        self._buffer = ctypes.create_string_buffer(256)
        #: Inodes proven to be removed since the last :meth:`settle`.
        self._proven = 0

    def watch(self, tid: int, syscall: str, notification: tuple[int, ...]) -> None:
        """Look at what *tid* is about to remove, and at what became of what it removed before."""
        self._judge(tid)
        with suppress(OSError, ValueError):
            fd = os.open(_place(tid, syscall, notification), _LOOK)
            if len(self._watched) < _MOST_WATCHED and self._is_own(fd):
                self._watched[tid] = fd
            else:
                os.close(fd)

    def settle(self) -> int:
        """Judge every inode that is watched, and let go of it; give how many are gone."""
        for tid in list(self._watched):
            self._judge(tid)
        proven, self._proven = self._proven, 0
        return proven

    def close(self) -> None:
        """Let go of all."""
        self.settle()

    def _judge(self, tid: int) -> None:
        fd = self._watched.pop(tid, -1)
        if fd >= 0:
            self._proven += os.fstat(fd).st_nlink == 0
            os.close(fd)

    def _is_own(self, fd: int) -> bool:
        if _NR_STATX is None:
            return False
        buffer = self._buffer
        failed = self._libc.syscall(
            _NR_STATX, fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, ctypes.byref(buffer)
        )
        if failed or not struct.unpack_from("=I", buffer)[0] & _STATX_BTIME:
            return False
        seconds, nanoseconds = _BTIME.unpack_from(buffer, 80)
        return bool(seconds + nanoseconds / 1e9 >= self._began)


def _place(tid: int, syscall: str, notification: tuple[int, ...]) -> bytes:
    """Say where the path of a call leads. Raises: OSError."""
    directory, path = _PLACES[syscall]
    memory = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.pread(memory, _PATH_MAX, notification[_ARGUMENTS + path])
    finally:
        os.close(memory)
    text = text.partition(b"\0")[0]
    if text.startswith(b"/"):
        return b"/proc/%d/root%s" % (tid, text)
    at = _AT_FDCWD
    if directory is not None:
        at = notification[_ARGUMENTS + directory] & 0xFFFFFFFF
    if at == _AT_FDCWD:
        return b"/proc/%d/cwd/%s" % (tid, text)
    return b"/proc/%d/fd/%d/%s" % (tid, at, text)


def held_unlinked(pids: list[int]) -> set[tuple[int, int]] | None:
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
                for number in os.listdir(f"/proc/{pid}/fd"):
                    with suppress(FileNotFoundError):
                        link = f"/proc/{pid}/fd/{number}"
                        target = os.readlink(link)
                        if target.startswith("socket:") and waiting_descriptors(pid, number):
                            return None
                        if target.startswith("/") and target.endswith(" (deleted)"):
                            _climb(link, held)
                for major, minor, inode in _MAPPED.findall(read_file(f"/proc/{pid}/maps")):
                    held.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    except OSError:
        return None
    return held


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
