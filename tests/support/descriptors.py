"""Count the descriptors of a process that does not let us look at them. Knows procfs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["nr_descriptors"]


def nr_descriptors(pid: int) -> int:
    """Give how many descriptors *pid* has open.

    The controller hides its own from ordinary users; since Linux 6.2 their number can be had all
    the same.
    """
    directory = Path(f"/proc/{pid}/fd")
    try:
        return len(list(directory.iterdir()))
    except PermissionError:
        return directory.stat().st_size
