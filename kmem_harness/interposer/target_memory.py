"""Read texts in a target's memory. What stands there may be another one a moment later.

Source: mm/process_vm_access.c, fs/proc/base.c (mem_read).
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache

from kmem_harness.interposer.libc import libc

__all__ = ["LONGEST_TEXT", "read_text"]

LONGEST_TEXT = 4096  # PATH_MAX
_PAGE = os.sysconf("SC_PAGE_SIZE")


class _Span(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = [("base", ctypes.c_void_p), ("nbytes", ctypes.c_size_t)]


class _Reader:
    """One call instead of three, and half of the time; the room for it is made once."""

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(LONGEST_TEXT + 1)
        self._ours = _Span(ctypes.addressof(self._text), LONGEST_TEXT)
        # What is behind the end of a page may be no memory: then only what is before it is read.
        self._theirs = (_Span * 2)()
        self._read = getattr(libc(), "process_vm_readv", None)
        if self._read is not None:
            count = ctypes.c_ulong
            self._read.argtypes = (
                *(ctypes.c_int, ctypes.POINTER(_Span), count),
                *(ctypes.POINTER(_Span), count, count),
            )
            self._read.restype = ctypes.c_ssize_t

    def read(self, tid: int, address: int) -> bytes | None:
        if self._read is None:
            return None
        before, behind = self._theirs
        before.base = address
        before.nbytes = _PAGE - address % _PAGE
        behind.base = address + before.nbytes
        behind.nbytes = LONGEST_TEXT - min(before.nbytes, LONGEST_TEXT)
        nbytes = self._read(tid, self._ours, 1, self._theirs, 2, 0)
        if nbytes <= 0:
            return None
        self._text[nbytes] = b"\0"
        return self._text.value


_reader = cache(_Reader)


def read_text(tid: int, address: int) -> bytes:
    """Give the text that ends with a NUL at *address* of *tid*, LONGEST_TEXT bytes of it at most.

    The target chose *address*: any word of 64 bits. Raises: OSError if there is no text, or nobody
    may read it.
    """
    text = _reader().read(tid, address)
    if text is not None:
        return text
    # Some kernels are built without that call, and some policies deny it.
    if address >> 63:
        raise OSError(errno.EFAULT, f"{address:#x} is no address")  # nor an offset, for Python
    memory = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(memory, LONGEST_TEXT, address).partition(b"\0")[0]
    finally:
        os.close(memory)
