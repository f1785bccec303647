"""Read texts in a target's memory. What stands there may be another one a moment later.

Source: fs/proc/base.c, mem_read.
"""

from __future__ import annotations

import errno
import os
import struct

__all__ = ["LONGEST_TEXT", "read_text", "read_words"]

LONGEST_TEXT = 4096  # PATH_MAX


def read_text(tid: int, address: int) -> bytes:
    """Give the text that ends with a NUL at *address* of *tid*, LONGEST_TEXT bytes of it at most.

    The target chose *address*: any word of 64 bits. Raises: OSError if there is no text, or nobody
    may read it.
    """
    if address >> 63:
        raise OSError(errno.EFAULT, f"{address:#x} is no address")  # nor an offset, for Python
    memory = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Where memory ends, so does what is read.
        return os.pread(memory, LONGEST_TEXT, address).partition(b"\0")[0]
    finally:
        os.close(memory)


def read_words(tid: int, address: int, count: int) -> tuple[int, ...]:
    """Give so many words of 64 bits at *address* of *tid*. Raises: OSError, as above."""
    if address >> 63:
        raise OSError(errno.EFAULT, f"{address:#x} is no address")
    memory = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.pread(memory, 8 * count, address)
    finally:
        os.close(memory)
    if len(found) < 8 * count:
        raise OSError(errno.EFAULT, "memory ends there")
    return struct.unpack(f"={count}Q", found)
