"""List the processes of a box as we number them, and read what /proc says of one.

Orphans go to the init of their namespace, or to the subreaper, so all of a box descend from it.
Source: Documentation/filesystems/proc.rst. Knows procfs; knows no kinds of objects.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from kmem_harness.procfs.census import DescendantCensus
from kmem_harness.procfs.pids import numbers_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.procfs.steps import Steps

__all__ = ["BoxProcesses", "Stat", "blocks_of", "read_file", "stat_of"]

#: include/linux/sched.h: forked, and has not executed a program since.
_FORKED_NO_EXEC = 0x40
_BLOCK_NBYTES = 4096


class Stat(NamedTuple):
    """What tells whether a process has changed since it was last looked at.

    ``forked``: it still runs the program of whoever forked it. ``faults`` and ``size`` grow with
    its page tables and mappings; ``started`` tells it from a later one with its pid.
    """

    state: str
    forked: bool
    faults: int
    threads: int
    started: int
    size: int

    @property
    def has_ended(self) -> bool:
        """Whether none of its threads runs any more, so that all but its entry is gone."""
        return self.state in "ZX" and self.threads <= 1

    @property
    def same_memory(self) -> tuple[int, int, int, bool]:
        """Equal in two looks between which the address space can hardly have changed."""
        return self.started, self.faults, self.size, self.forked


def stat_of(pid: int) -> Stat | None:
    """Read one process's stat, ``None`` if it is gone."""
    try:
        fields = read_file(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
        return Stat(
            state=fields[0].decode("ascii"),
            forked=bool(int(fields[6]) & _FORKED_NO_EXEC),
            faults=int(fields[7]) + int(fields[9]),
            threads=int(fields[17]),
            started=int(fields[19]),
            size=int(fields[20]),
        )
    except (OSError, IndexError):
        return None


class BoxProcesses:
    """The processes of one box, those that are not charged included, its own init left out."""

    def __init__(self, init_pid: int, *, with_init: bool) -> None:
        """List below *init_pid*; *with_init*: and it, too, for it is the target."""
        self._init = init_pid
        self._with_init = with_init
        self._descendants = DescendantCensus(init_pid, frozenset())
        self._has_children_files = os.path.exists(
            f"/proc/{os.getpid()}/task/{os.getpid()}/children"
        )

    def list(self) -> Steps[list[int]]:
        """Give their pids as we number them. A process that lives throughout is in it."""
        found = [self._init] if self._with_init else []
        if not self._has_children_files:
            return found + [int(pid) for pid in (yield from self._descendants.processes())]
        seen = {self._init}
        waiting = [self._init]
        while waiting:
            for child in (yield from _children(waiting.pop())):
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)
                    found.append(child)
        return found


def _children(pid: int) -> Steps[list[int]]:
    """Read what each thread of *pid* has forked; a list that its reader sees whole is exact."""
    children: list[int] = []
    try:
        tids = yield from numbers_in(f"/proc/{pid}/task")
    except OSError:
        return children
    for tid in tids:
        with suppress(OSError):  # it died since; its children are its siblings' or init's now
            children += map(int, read_file(f"/proc/{pid}/task/{tid}/children").split())
        yield
    return children


def blocks_of(path: str) -> Iterator[bytes]:
    """Give a procfs file in blocks of whole lines, some sixty-four each. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        rest = b""
        while text := os.read(fd, _BLOCK_NBYTES):
            lines, end, rest = (rest + text).rpartition(b"\n")
            yield lines + end
        yield rest
    finally:
        os.close(fd)


def read_file(path: str) -> bytes:
    """Read a whole procfs file. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 65536)
        while more := os.read(fd, 65536):
            text += more
        return text
    finally:
        os.close(fd)
