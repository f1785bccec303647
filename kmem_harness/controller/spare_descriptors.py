"""Keep descriptors free for looking at boxes: a census that could open nothing would count nothing.

Descriptors are given out lowest first, so that the number of a new one says how many are left.
"""

from __future__ import annotations

import resource
import socket

__all__ = ["is_scarce", "is_short"]

#: More than any census has open at once.
_RESERVED = 32


def is_scarce(fd: int) -> bool:
    """Say whether *fd*, which was just opened, is one of the last that we may have."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most != resource.RLIM_INFINITY and fd >= most - _RESERVED


def is_short() -> bool:
    """Say whether whatever is opened next will be one of the last."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            return is_scarce(probe.fileno())
    except OSError:
        return True
