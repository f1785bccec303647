"""Wait for one descriptor, whatever its number: select takes none beyond 1023."""

from __future__ import annotations

import select

__all__ = ["is_readable"]


def is_readable(fd: int, seconds: float | None) -> bool:
    """Say whether *fd* is readable or at its end, within *seconds*; with ``None`` wait for that.

    Any number of threads may wait for one.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(seconds, 0) * 1000))
