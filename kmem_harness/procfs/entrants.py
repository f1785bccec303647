"""Tell who is in a container's pid namespace, and under how many filters. Knows procfs alone.

A process can gain filters and never lose one, so it that has fewer than those we wrapped came
from outside: an engine's exec put it there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

from kmem_harness.procfs.processes import read_file

__all__ = [
    "Entrant",
    "entrants",
    "filters_of",
    "newcomer",
    "pid_inside",
    "shares_pid_namespace",
]


class Entrant(NamedTuple):
    """A process in a container that our filter does not bind; ``pid`` as we number it."""

    pid: int
    inside: int
    comm: str


def filters_of(pid: int) -> int:
    """Give how many seccomp filters bind *pid*. Raises: OSError if it is gone.

    Source: Seccomp_filters of /proc/PID/status, since Linux 5.9; before that, -1.
    """
    return int(_field(_status(pid), "Seccomp_filters", "-1"))


def pid_inside(pid: int) -> str:
    """Give a process's pid as its innermost namespace numbers it. Raises: OSError if it is gone."""
    return _field(_status(pid), "NSpid", str(pid)).split()[-1]


def shares_pid_namespace(pid: int, other: int) -> bool:
    """Say whether two processes are in one pid namespace; false if either is gone."""
    try:
        return _namespace(pid) == _namespace(other)
    except OSError:
        return False


def entrants(init_pid: int, filters: int) -> list[Entrant]:
    """Find the processes in *init_pid*'s namespace, but for its init, under fewer than *filters*."""
    try:
        namespace = _namespace(init_pid)
    except OSError:
        return []
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != init_pid:
            with suppress(OSError):  # gone since it was listed, or not ours to look at
                pid = int(name)
                if _namespace(pid) != namespace:
                    continue
                status = _status(pid)
                if int(_field(status, "Seccomp_filters", "-1")) < filters:
                    inside = _field(status, "NSpid", name).split()[-1]
                    found.append(Entrant(pid, int(inside), _field(status, "Name", "?")))
    return found


def newcomer(init_pid: int, known: set[str]) -> int:
    """Find who was put into *init_pid*'s namespace from outside, and is not in *known*; 0 if nobody.

    *known* holds pids as the namespace numbers them. Whoever was made inside has its parent there,
    or init for one.
    """
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError):  # no process, or gone since it was listed
            pid = int(name)
            if pid != init_pid and shares_pid_namespace(pid, init_pid):
                parent = int(_field(_status(pid), "PPid", "0"))
                if not shares_pid_namespace(parent, init_pid) and pid_inside(pid) not in known:
                    return pid
    return 0


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/pid")


def _status(pid: int) -> list[str]:
    """Read a process's status line by line: in its name the kernel escapes newlines, and no more."""
    text = read_file(f"/proc/{pid}/status").decode("utf-8", "replace")
    return text.split("\n")


def _field(status: list[str], name: str, default: str) -> str:
    for line in status:
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return default
