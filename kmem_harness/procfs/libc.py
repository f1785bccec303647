"""The C library, for the calls that Python has no name for."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["libc"]


@cache
def libc() -> ctypes.CDLL:
    """Give the one handle of it, which keeps ``errno``: each further one would take 3 kB."""
    return ctypes.CDLL(None, use_errno=True)
