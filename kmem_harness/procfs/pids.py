"""List what procfs numbers, a few at a time: a thousand processes at once take a millisecond.

Those are processes, threads and descriptors. Knows directory entries; knows no boxes.
Source: fs/readdir.c, struct linux_dirent64.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from typing import TYPE_CHECKING

from kmem_harness.procfs.libc import libc

if TYPE_CHECKING:
    from kmem_harness.procfs.steps import Steps

__all__ = ["list_numbers", "numbers_in"]

#: Some hundred and fifty processes, which take 150 microseconds.
_AT_ONCE = 4096
_HEAD = struct.Struct("<QqHB")  # inode, offset, length of the entry, type; the name follows
#: By their length, entries of numbers: of up to four digits, and of more.
_NUMBERS = {
    24: re.compile(rb".{19}(?=(\d+)\0).{5}", re.DOTALL),
    32: re.compile(rb".{19}(?=(\d+)\0).{13}", re.DOTALL),
}


def numbers_in(path: str) -> Steps[list[str]]:
    """List the numbers among the names in the directory *path*. Raises: OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return (yield from list_numbers(directory))
    finally:
        os.close(directory)


def list_numbers(directory: int, first: int = 0) -> Steps[list[str]]:
    """List the numbers among the names in *directory*, whose listing has them from *first* on.

    What is there throughout is found. Raises: OSError.
    """
    os.lseek(directory, first, os.SEEK_SET)
    getdents64 = getattr(libc(), "getdents64", None)
    if getdents64 is None:  # as with some that are not GNU's
        return [name for name in os.listdir(directory) if name.isdigit()]
    buffer = ctypes.create_string_buffer(_AT_ONCE)
    found: list[str] = []
    while (nbytes := getdents64(directory, buffer, _AT_ONCE)) > 0:
        found += _numbers(buffer.raw[:nbytes])
        yield
    if nbytes < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return found


def _numbers(entries: bytes) -> list[str]:
    """Read the names that are numbers from directory entries."""
    for length, number in _NUMBERS.items():
        # Nearly always all are as long as the first, and numbers, and so found in one step.
        if not len(entries) % length and set(entries[16::length]) == {length}:
            found = number.findall(entries)
            if len(found) == len(entries) // length:
                return b" ".join(found).decode().split()
    names = []
    at = 0
    while at < len(entries):
        length = _HEAD.unpack_from(entries, at)[2]
        names.append(entries[at + _HEAD.size : at + length].split(b"\0", 1)[0].decode())
        at += length
    return [name for name in names if name.isdigit()]
