"""Find what keeps a box from ending: tasks that cannot be killed, and cgroups that hold tasks frozen.

Knows /proc and the cgroup v1 freezer; decides nothing about boxes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Task", "namespace_of", "tasks_of", "thaw"]

_FREEZER = "/sys/fs/cgroup/freezer"


class Task(NamedTuple):
    """A process that is still there: its pid, its name, and where in the kernel it waits, if known."""

    pid: int
    comm: str
    state: str
    waits_in: str

    def __str__(self) -> str:
        """Name it as ``comm[pid]``, with what is known of its wait."""
        where = f" in {self.waits_in}" if self.waits_in else ""
        return f"{self.comm}[{self.pid}] (state {self.state}{where})"


def namespace_of(pid: int) -> int:
    """Give the number of a process's pid namespace, 0 if it is gone or not ours to look at."""
    with suppress(OSError):
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    return 0


def tasks_of(namespace: int, guard: int) -> list[Task]:
    """List the processes of a box: those of its pid *namespace*, or below its *guard* without one.

    Zombies are left out, and so are guard and init.
    """
    pids = list(_all_pids())
    if namespace and namespace != namespace_of(os.getpid()):
        inside = [pid for pid in pids if namespace_of(pid) == namespace]
    else:
        inside = _below(guard, pids)
    found = (_describe(pid) for pid in inside)
    return [task for task in found if task is not None and task.comm != "kmem-init"]


def thaw(tasks: list[Task]) -> list[str]:
    """Let go on what a box has frozen in cgroups of its own; list those, which are empty soon."""
    thawed = []
    ours = _freezer_of(os.getpid())
    for cgroup in {_freezer_of(task.pid) for task in tasks} - {ours, "", "/"}:
        path = f"{_FREEZER}{cgroup}"
        with suppress(OSError), open(f"{path}/freezer.state", "r+", encoding="ascii") as state:
            if state.read().strip() != "THAWED":
                state.write("THAWED")
                thawed.append(path)
    return thawed


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _below(guard: int, pids: list[int]) -> list[int]:
    parents = {pid: _parent_of(pid) for pid in pids}
    found: list[int] = []
    new = [guard]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


def _parent_of(pid: int) -> int:
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _describe(pid: int) -> Task | None:
    head, _, tail = _read(f"/proc/{pid}/stat").rpartition(")")
    state = tail.split()[:1]
    if not state or state[0] in "ZX":
        return None
    waits_in = _read(f"/proc/{pid}/wchan")
    return Task(pid, head.partition("(")[2], state[0], "" if waits_in == "0" else waits_in)


def _freezer_of(pid: int) -> str:
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "freezer":
            return path
    return ""


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""
