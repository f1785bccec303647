"""Count the tasks of a box from outside, and tell whether a trapped clone is over.

Knows procfs; knows no memcgs. Two ways to count: the procfs of the box's own pid namespace,
which is exact and cheap, and the descendants of the box's init where there is no namespace.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kmem_harness.interposer.syscalls import ARCHITECTURES
from kmem_harness.procfs.pids import list_numbers, numbers_in
from kmem_harness.procfs.steps import result_of
from kmem_harness.procfs.stillness import Stillness

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.procfs.steps import Steps

__all__ = [
    "DescendantCensus",
    "NamespaceCensus",
    "TaskCensus",
    "Tasks",
    "call_is_over",
    "comm_of",
    "is_running",
    "last_child_of",
    "tgid_of",
]

# A task in one of these states is not inside clone: there it runs (R) or waits for
# something uninterruptible (D, as in vfork). 't' is left out: a tracer may stop a task there.
_STATES_OUTSIDE_CLONE = frozenset("SZXTI")
# Where the pids begin in a listing of /proc, behind fifty other entries (fs/proc/base.c,
# TGID_OFFSET since v3.10). Where that is not so, the whole is listed.
_FIRST_PID_OFFSET = 258
_STATES_GONE = frozenset("ZX")
#: The same, as a stat file has them right behind the name.
_ENDED = (b"Z", b"X")
# clone3 is not among them: it reads memory before it makes the child, and a page of that memory
# can be kept from it for as long as a userfaultfd owner likes: there S proves nothing.
_CLONES = frozenset(
    architecture.numbers[name]
    for architecture in ARCHITECTURES.values()
    if architecture.name == os.uname().machine
    for name in ("clone", "fork", "vfork")
    if name in architecture.numbers
)


#: With fewer, a count costs no more than to ask whether it is needed.
_WORTH_ASKING = 50


class Tasks(NamedTuple):
    """Live tasks, unreaped ones included, that were created inside a box."""

    processes: int
    threads: int  # beyond the one that every process has


class TaskCensus(Protocol):
    """Count the tasks of one box. A task that lives throughout the count is in it."""

    def count(self, *, with_threads: bool) -> Steps[Tasks]:
        """Count now; without *with_threads* the threads are left at 0, which is cheaper."""

    def living(self) -> Steps[int]:
        """Count the processes of which a thread is left: those that wait to be reaped are not."""

    def processes(self) -> Steps[frozenset[str]]:
        """Name what :meth:`count` counts as processes: a pid each, as this census sees them."""

    def close(self) -> None:
        """Let go of what the census holds open."""


class _Seen(NamedTuple):
    """What is told of one process."""

    parent: int
    threads: int
    ended: bool


class _Kept:
    """The last count of a census, for as long as no task of the host is made or ends."""

    def __init__(self) -> None:
        self._stillness: Stillness | None = None
        self._asked: tuple[object, ...] = ()
        self._tasks = Tasks(0, 0)

    def count(self, count: Callable[[], Steps[Tasks]], *asked: object) -> Steps[Tasks]:
        """Give the last count, if it would be the same again and was *asked* in the same way."""
        stillness = self._stillness
        if stillness is not None:
            if asked == self._asked and stillness.lasts():
                return self._tasks
            stillness.about_to_look()
        self._tasks, self._asked = (yield from count()), asked
        if stillness is not None:
            stillness.looked()
        elif self._tasks.processes > _WORTH_ASKING:
            self._stillness = Stillness()
        return self._tasks

    def close(self) -> None:
        if self._stillness is not None:
            self._stillness.close()


class NamespaceCensus:
    """Count through the procfs of a box's pid namespace.

    Units: tasks, without those named at construction (the init and the first process were
    created outside the box). Source: fs/proc/base.c, proc_pid_readdir, proc_task_getattr.
    """

    def __init__(self, init_pid: int, exempt: set[str] | frozenset[str]) -> None:
        """Open the procfs that *init_pid* sees; *exempt* holds pids as the namespace numbers them.

        The caller may change that set later on.
        Raises: OSError if init is gone or hides its root.
        """
        self._proc = os.open(f"/proc/{init_pid}/root/proc", os.O_RDONLY | os.O_DIRECTORY)
        self._exempt = exempt
        self._kept = _Kept()
        self._first = _FIRST_PID_OFFSET
        if "1" not in result_of(self._pids()):
            self._first = 0

    def count(self, *, with_threads: bool) -> Steps[Tasks]:
        """See :class:`TaskCensus`."""
        return self._kept.count(
            lambda: self._count(with_threads=with_threads), with_threads, len(self._exempt)
        )

    def _count(self, *, with_threads: bool) -> Steps[Tasks]:
        pids = yield from self._pids()
        processes = len(pids) - len(self._exempt.intersection(pids))
        threads = 0
        if with_threads:
            for pid in pids:
                with suppress(OSError):  # it died since it was listed
                    task = os.stat(f"{pid}/task", dir_fd=self._proc)
                    threads += max(task.st_nlink - 3, 0)
                yield
        return Tasks(processes, threads)

    def living(self) -> Steps[int]:
        """See :class:`TaskCensus`."""
        living = 0
        for pid in (yield from self.processes()):
            with suppress(FileNotFoundError, ProcessLookupError):  # reaped since it was listed
                living += not _has_ended(_read(f"{pid}/stat", within=self._proc))
            yield
        return living

    def close(self) -> None:
        """See :class:`TaskCensus`."""
        os.close(self._proc)
        self._kept.close()

    def processes(self) -> Steps[frozenset[str]]:
        """See :class:`TaskCensus`."""
        return frozenset((yield from self._pids())) - self._exempt

    def _pids(self) -> Steps[list[str]]:
        return list_numbers(self._proc, self._first)


class DescendantCensus:
    """Count the descendants of a subreaper, where a box has no pid namespace.

    An orphan becomes a child of the subreaper, so descendants are what it holds; a chain of
    parents read while it changes is read again. Costs a read per process of the host.
    """

    def __init__(self, init_pid: int, exempt: frozenset[str]) -> None:
        """Count below *init_pid*; *exempt* holds pids that are not counted, init's among them."""
        self._init = init_pid
        self._exempt = frozenset(int(pid) for pid in exempt)
        self._kept = _Kept()

    def count(self, *, with_threads: bool) -> Steps[Tasks]:
        """See :class:`TaskCensus`."""
        return self._kept.count(lambda: self._count(with_threads=with_threads), with_threads)

    def _count(self, *, with_threads: bool) -> Steps[Tasks]:
        found = yield from self._list()
        counted = found.keys() - self._exempt
        # The threads of an exempt process were made inside all the same.
        threads = sum(max(one.threads - 1, 0) for one in found.values()) if with_threads else 0
        return Tasks(len(counted), threads)

    def living(self) -> Steps[int]:
        """See :class:`TaskCensus`."""
        found = yield from self._list()
        return sum(not found[pid].ended for pid in found.keys() - self._exempt)

    def processes(self) -> Steps[frozenset[str]]:
        """See :class:`TaskCensus`."""
        return frozenset(str(pid) for pid in (yield from self._list()).keys() - self._exempt)

    def close(self) -> None:
        """See :class:`TaskCensus`."""
        self._kept.close()

    def _list(self) -> Steps[dict[int, _Seen]]:
        """Find the descendants."""
        parents: dict[int, int] = {}
        seen: dict[int, _Seen] = {}
        for pid in (yield from self._pids()):
            stat = _read_stat(pid)
            if stat is not None:
                parents[pid] = stat.parent
                seen[pid] = stat
            yield
        inside = {self._init}
        outside = {0}
        for pid in parents:
            self._place(pid, parents, inside, outside)
        inside.discard(self._init)
        return {pid: seen[pid] for pid in inside}

    def _pids(self) -> Steps[list[int]]:
        return [int(pid) for pid in (yield from numbers_in("/proc"))]

    def _place(
        self, pid: int, parents: dict[int, int], inside: set[int], outside: set[int]
    ) -> None:
        """Follow *pid* up to a process whose place is known, and place all on the way."""
        chain: list[int] = []
        at = pid
        while at not in inside and at not in outside:
            chain.append(at)
            parent = parents[at]
            if parent not in parents and parent != 0:
                # The parent died after it was listed: ask who took its child over.
                again = _read_stat(at)
                parent = parents[at] = again.parent if again else 0
            if parent in chain:  # a pid was used again meanwhile
                outside.add(at)
            elif parent not in parents and parent != 0:
                # It keeps changing hands. Counting one too many only delays an answer.
                inside.add(at)
            else:
                at = parent
        (inside if at in inside else outside).update(chain)


def call_is_over(tid: int, number: int, last_child: bytes | None) -> bool:
    """Prove that *tid* has left the call it was allowed, or that it is gone.

    *number* is that system call's; *last_child* is what :func:`last_child_of` gave before a clone
    was allowed, or ``None`` where nobody looked. Never wrong when true; false proves nothing.
    """
    try:
        state = _state_of(tid)
        if state in _STATES_GONE:
            return True
        if state in _STATES_OUTSIDE_CLONE:
            if number in _CLONES:
                return True
            # Elsewhere it may sleep inside: in accept, or on a page of memory it was given.
            inside = _read(f"/proc/{tid}/syscall").partition(b" ")[0]
            if inside.strip() not in (b"running", b"%d" % number):
                return True
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:  # Yama may forbid /proc/TID/syscall
        pass
    return last_child is not None and last_child_of(tid) != last_child


def is_running(tid: int) -> bool:
    """Say whether *tid* has a processor or waits for one; a moment later it may be proven to sleep."""
    try:
        return _state_of(tid) == "R"
    except OSError:
        return False


def last_child_of(tid: int) -> bytes | None:
    """Name the youngest child that *tid* forked, ``b""`` for none, ``None`` if it cannot be told."""
    try:
        return _read(f"/proc/{tid}/task/{tid}/children", whole=True).rpartition(b" ")[0][-11:]
    except OSError:
        return None


def comm_of(tid: int) -> str:
    """Give the name of a task, ``"?"`` if it is gone. The target chooses it: for people only."""
    try:
        return _read(f"/proc/{tid}/comm").decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return "?"


def tgid_of(tid: int) -> int:
    """Give the process that thread *tid* belongs to, 0 if it is gone."""
    try:
        status = _read(f"/proc/{tid}/status")
    except OSError:
        return 0
    return int(status.partition(b"\nTgid:")[2].split(None, 1)[0])


def _state_of(tid: int) -> str:
    """Read the letter for what a task is doing. Raises: OSError if it is gone."""
    return _read(f"/proc/{tid}/stat").rpartition(b") ")[2][:1].decode("ascii")


def _read_stat(pid: int) -> _Seen | None:
    """Look at a process, ``None`` if it is gone.

    Raises: OSError if it cannot be told, as for lack of descriptors: it may be alive.
    """
    try:
        text = _read(f"/proc/{pid}/stat")
        fields = text.rpartition(b") ")[2].split()
        return _Seen(int(fields[1]), int(fields[17]), _has_ended(text))
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def _has_ended(stat: bytes) -> bool:
    """Say whether no thread of a process runs any more, by its stat file.

    A leader may end before its other threads: then there are more than one, and it lives.
    """
    text = stat.rpartition(b") ")[2]
    return text.startswith(_ENDED) and int(text.split(None, 18)[17]) <= 1


def _read(path: str, *, whole: bool = False, within: int | None = None) -> bytes:
    """Read a procfs file; one read gives all but the longest of them."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=within)
    try:
        text = os.read(fd, 4096)
        while whole and (more := os.read(fd, 65536)):
            text += more
        return text
    finally:
        os.close(fd)
