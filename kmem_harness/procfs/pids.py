"""List the processes that a procfs shows, a few at a time: a thousand at once take a millisecond.

Knows directory entries; knows no boxes. Source: fs/readdir.c, struct linux_dirent64.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from typing import TYPE_CHECKING

from kmem_harness.procfs.libc import libc

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["list_pids"]

#: Some three hundred processes, which take 300 microseconds.
_AT_ONCE = 8192
_HEAD = struct.Struct("<QqHB")  # inode, offset, length of the entry, type; the name follows
#: By their length, entries of pids: of up to four digits, and of more.
_PIDS = {
    24: re.compile(rb".{19}(?=(\d+)\0).{5}", re.DOTALL),
    32: re.compile(rb".{19}(?=(\d+)\0).{13}", re.DOTALL),
}


def list_pids(proc: int, first: int, breathe: Callable[[], None]) -> list[str]:
    """List the pids of the procfs *proc*, whose listing has them from offset *first* on.

    *breathe* is called between the steps. What is there throughout is found. Raises: OSError.
    """
    os.lseek(proc, first, os.SEEK_SET)
    getdents64 = getattr(libc(), "getdents64", None)
    if getdents64 is None:  # as with some that are not GNU's
        return [name for name in os.listdir(proc) if name.isdigit()]
    buffer = ctypes.create_string_buffer(_AT_ONCE)
    found: list[str] = []
    while (nbytes := getdents64(proc, buffer, _AT_ONCE)) > 0:
        found += _pids(buffer.raw[:nbytes])
        breathe()
    if nbytes < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return found


def _pids(entries: bytes) -> list[str]:
    """Read the names that are numbers from directory entries."""
    for length, pid in _PIDS.items():
        # Nearly always all are as long as the first, and numbers, and so found in one step.
        if not len(entries) % length and set(entries[16::length]) == {length}:
            found = pid.findall(entries)
            if len(found) == len(entries) // length:
                return b" ".join(found).decode().split()
    names = []
    at = 0
    while at < len(entries):
        length = _HEAD.unpack_from(entries, at)[2]
        names.append(entries[at + _HEAD.size : at + length].split(b"\0", 1)[0].decode())
        at += length
    return [name for name in names if name.isdigit()]
