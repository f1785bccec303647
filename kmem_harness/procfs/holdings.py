"""See what a process holds and who else lives in its box. Knows procfs; judges nothing.

For a last look while a process waits in its exit: it is all still there then.
"""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["holdings_of", "is_alive", "others_alive"]

_MAX_PROCESSES = 10_000


def holdings_of(pid: int) -> dict[str, int] | None:
    """Count the descriptors of *pid* by what they are; ``None`` if they cannot be seen.

    Shape: ``{"file": 3, "socket": 1, "pipe": 2, "anon": 1}``, without those it has none of.
    """
    found: dict[str, int] = {}
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    for name in names:
        with suppress(OSError):
            what = _what(os.readlink(f"{folder}/{name}"))
            found[what] = found.get(what, 0) + 1
    return dict(sorted(found.items()))


def others_alive(init: int, target: int) -> list[str]:
    """Name the processes below *init*, itself and *target* aside, that have not ended.

    Source: /proc/PID/task/TID/children; exact while nobody forks, which is good enough to look at.
    """
    seen: set[int] = set()
    names: list[str] = []
    waiting = [init]
    while waiting and len(seen) < _MAX_PROCESSES:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        waiting += _children(pid)
        if pid not in (init, target):
            name = _living(pid)
            if name is not None:
                names.append(name)
    return sorted(names)


def is_alive(pid: int) -> bool:
    """Say whether *pid* is a process that has not ended."""
    return _living(pid) is not None


def _what(link: str) -> str:
    kind, colon, _ = link.partition(":")
    if not colon or link.startswith("/"):
        return "file"
    return {"anon_inode": "anon"}.get(kind, kind)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for tid in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{tid}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
    return found


def _living(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, rest = file.read().rpartition(b") ")
    except OSError:
        return None
    if rest[:1] in (b"Z", b"X"):
        return None
    return head.partition(b"(")[2].decode("utf-8", "replace")
