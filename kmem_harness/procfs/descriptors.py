"""Count the open files of a box by kind, from outside. Knows /proc/PID/fd; knows no prices.

One object is counted once: sockets, pipes and memfds by their inode, other files where kcmp shows
that a process shares one with another, as after a fork. What cannot be told apart is counted
twice, never left out. Descriptors in an unread message are in no table: they are counted at the
socket that waits for them (scm_fds, since Linux 5.7).
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from kmem_harness.procfs.libc import libc
from kmem_harness.procfs.pids import list_numbers, numbers_in
from kmem_harness.procfs.processes import read_file, stat_of
from kmem_harness.procfs.steps import in_steps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.procfs.steps import Steps

__all__ = [
    "SOCKET_KINDS",
    "Descriptors",
    "Held",
    "compares_files",
    "count_descriptors",
    "memfd_devices",
    "waiting_descriptors",
]

#: What the socket file system says of a socket's protocol (system.sockprotoname).
SOCKET_KINDS = {
    b"UNIX": "unix-socket",
    b"UNIX-STREAM": "unix-socket",
    b"TCP": "tcp-socket",
    b"TCPv6": "tcp6-socket",
    b"MPTCP": "tcp-socket",
    b"MPTCPv6": "tcp6-socket",
    b"NETLINK": "netlink-socket",
}
_OTHER_SOCKET = "udp-socket"
#: How many open files the price of an object includes; sockets cannot be opened again.
_FILES_OF = {"pipe": 2, "memfd": 1}
_HUGE_SIZES = (os.MFD_HUGE_2MB, os.MFD_HUGE_1GB)
_ANONYMOUS = {
    "anon_inode:[eventfd]": "anon-file",
    "anon_inode:[eventpoll]": "anon-file",
    "anon_inode:[timerfd]": "anon-file",
    "anon_inode:[signalfd]": "anon-file",
    "anon_inode:[pidfd]": "anon-file",
    "anon_inode:inotify": "inotify",
    "anon_inode:[fanotify]": "inotify",
    "anon_inode:[fscontext]": "fs-context",
    "anon_inode:[userfaultfd]": "userfaultfd",
    "anon_inode:[landlock-ruleset]": "anon-file",
    "anon_inode:landlock-ruleset": "anon-file",
    "/secretmem (deleted)": "memfd",
}
#: Which fdinfo lines are objects of their own, by what the descriptor is.
_WATCHES = {
    "anon_inode:[eventpoll]": (b"tfd:", "epoll-watch"),
    "anon_inode:inotify": (b"inotify wd:", "inotify-watch"),
}
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_FILE, _KCMP_FILES = 0, 2
#: What kcmp says of two that differ, by an order of the kernel's own.
_LESS, _GREATER = 1, 2
#: So many holders of one file under one number are compared; beyond, a holder counts as another.
_MOST_COMPARED = 8
_FIRST_TABLE = 64
#: What fdinfo tells of every file.
_TOLD = re.compile(rb"^(mnt_id|ino):\s*(\d+)$", re.MULTILINE)
_FEW_DIGITS = 2
_FEW_FDS = 4
_MOST_HOLDERS = 8


class Held:
    """What one process has open, each object at the first process that was seen with it."""

    __slots__ = ("fds", "kinds", "total")

    def __init__(self) -> None:
        """Nothing yet."""
        self.kinds: dict[str, int] = {}
        #: All of them, known when all were seen.
        self.total = 0
        #: The first few of its descriptors, by kind.
        self.fds: dict[str, list[int]] = {}

    def add(self, kind: str, number: str) -> None:
        """Add the object of descriptor *number*."""
        nr = self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if nr <= _FEW_FDS:
            self.fds.setdefault(kind, []).append(int(number))


class Descriptors:
    """What a box holds through descriptors."""

    def __init__(self) -> None:
        """Nothing yet."""
        #: Objects by kind, watches among them.
        self.kinds: Counter[str] = Counter()
        #: Descriptors in messages that wait at a socket seen here.
        self.in_flight = 0
        #: Descriptors, at most, in tables that may not be looked at.
        self.hidden = 0
        #: False if a table could not be read, so that nothing is proven to be gone.
        self.complete = True
        #: Processes with descriptors beyond the table that every process starts with.
        self.grown: set[int] = set()
        #: What was found by inode: sockets, pipes and memfds.
        self.inodes: dict[str, str] = {}
        #: The same objects by process, of those few that hold most.
        self.held: dict[int, Held] = {}


def count_descriptors(
    pids: Iterable[int],
    known: dict[str, str],
    watched: frozenset[str] | set[str],
    outside: frozenset[str] = frozenset(),
) -> Steps[Descriptors]:
    """Count what the descriptor tables of *pids* hold.

    :param known: kinds by inode, from an earlier count: a socket's protocol never changes.
    :param watched: count these kinds of watches, too.
    :param outside: inodes of what was made outside, and so is held by nobody inside.
    """
    count = _Count(known, watched, outside)
    for pid in pids:
        yield from count.add_process(pid)
        count.keep_most(pid)
        yield
    return count.found


class _Tables:
    """The tables of one process's threads, each by a thread that has it, in the kernel's order.

    So ten thousand threads are told apart by some fourteen comparisons each, and not by ten thousand.
    """

    def __init__(self) -> None:
        self.owners: list[int] = []
        #: False once a thread was gone that stood for others.
        self.complete = True

    def add(self, tid: int) -> bool:
        """Say whether *tid* has a table that none of those before has."""
        owners = self.owners
        low, high = 0, len(owners)
        while low < high:
            middle = (low + high) // 2
            order = _kcmp(owners[middle], tid, _KCMP_FILES)
            if order == 0:
                return False
            if order == _LESS:
                low = middle + 1
            elif order == _GREATER:
                high = middle
            elif not _lives(tid):
                return False
            elif not _lives(owners[middle]):
                del owners[middle]
                self.complete = False  # its table would be counted twice
                low, high = 0, len(owners)
            else:
                break  # the kernel does not tell: one too many
        owners.insert(low, tid)
        return True


class _Count:
    """One count over many tables."""

    def __init__(
        self,
        known: dict[str, str],
        watched: frozenset[str] | set[str],
        outside: frozenset[str],
    ) -> None:
        self.found = Descriptors()
        self._outside = outside
        self._known = known
        self._watched = watched
        self._holders: dict[tuple[str, str], list[int]] = {}
        #: By inode: a descriptor of each open file that was told from those before.
        self._files: dict[str, list[tuple[int, int]]] = {}
        self._held = Held()

    def keep_most(self, pid: int) -> None:
        """Keep what *pid* holds, if it is among those few that hold most."""
        held, own = self.found.held, self._held
        own.total = sum(own.kinds.values())
        if len(held) >= _MOST_HOLDERS:
            least = min(held, key=lambda one: held[one].total)
            if held[least].total >= own.total:
                return
            del held[least]
        held[pid] = own

    def add_process(self, pid: int) -> Steps[None]:
        """Add the table of *pid*, and those that its threads have for themselves."""
        self._held = Held()
        stat = stat_of(pid)
        if stat is None:
            return
        if stat.threads == 1:
            yield from self._add_table(pid)
            return
        tables = _Tables()
        early = yield from _threads_of(pid)
        # Where a thread has a table of its own, another may have it, too: to be read before it goes.
        read: list[int | None] = []
        for tid in (pid, *early):
            if tables.add(tid):
                read.append((yield from self._add_table(tid)))
            yield
        # ... nor may anything have moved meanwhile to one that is new.
        late = []
        for tid in (yield from _threads_of(pid)) - early:
            if tables.add(tid):
                late.append((yield from self._add_table(tid)))  # noqa: PERF401 - no comprehension yields
        if not tables.complete or None in read[1:] or any(nr != 0 for nr in late):
            self.found.complete = False

    def _add_table(self, owner: int) -> Steps[int | None]:
        """Say how many descriptors there were; ``None`` if *owner* is gone, or cannot be looked at."""
        try:
            table = os.open(f"/proc/{owner}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            return None  # it is gone, and its table with it
        except PermissionError:
            hidden = _size_of_table(owner)
            self.found.hidden += hidden or 0
            return hidden
        except OSError:
            self.found.complete = False
            return None
        try:
            numbers = yield from list_numbers(table)
            if len(numbers) > _FIRST_TABLE or any(len(number) > _FEW_DIGITS for number in numbers):
                self.found.grown.add(owner)
            for number, ends_step in in_steps(numbers):
                with suppress(FileNotFoundError, ProcessLookupError):  # closed since
                    self._add(owner, number, os.readlink(number, dir_fd=table))
                if ends_step:
                    yield
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError:
            self.found.complete = False
            return None
        finally:
            os.close(table)
        return len(numbers)

    def _add(self, owner: int, number: str, link: str) -> None:
        found = self.found
        key = _inode_of(owner, number, link)
        if key:
            if key not in found.inodes:
                kind = self._known.get(key) or _kind_by_inode(owner, number, link)
                found.inodes[key] = kind
                found.kinds[kind] += 1
                if key not in self._outside:
                    self._held.add(kind, number)
                if kind == "unix-socket":
                    waiting = waiting_descriptors(owner, number)
                    found.in_flight += waiting or 0
                    # A kernel that does not tell may hide any number of them.
                    found.complete &= waiting is not None
            self._add_opened(owner, number, key)
            return
        holders = self._holders.setdefault((number, link), [])
        if any(_same_file(holder, owner, number) for holder in holders[:_MOST_COMPARED]):
            return
        holders.append(owner)
        kind = "anon-file" if link.startswith("pidfd:[") else _ANONYMOUS.get(link, "file")
        found.kinds[kind] += 1
        self._held.add(kind, number)
        watch = _WATCHES.get(link)
        if watch is not None and watch[1] in self._watched:
            lines = read_file(f"/proc/{owner}/fdinfo/{number}").splitlines()
            found.kinds[watch[1]] += sum(line.startswith(watch[0]) for line in lines)

    def _add_opened(self, owner: int, number: str, key: str) -> None:
        """Count as files what is opened again, by /proc, beyond the files that an object comes with."""
        included = _FILES_OF.get(self.found.inodes[key])
        if included is None:
            return
        files = self._files.setdefault(key, [])
        for holder, at in files[:_MOST_COMPARED]:
            if _kcmp(holder, owner, _KCMP_FILE, at, int(number)) == 0:
                return
        files.append((owner, int(number)))
        if len(files) > included:
            self.found.kinds["file"] += 1


def _size_of_table(owner: int) -> int | None:
    """Say how many descriptors a table holds at most that may not be looked at, ``None`` if it is gone.

    Since Linux 6.2 that is said exactly; else there are no more than it has room for.
    """
    try:
        nr_open = os.stat(f"/proc/{owner}/fd").st_size
        if nr_open:
            return nr_open
        status = read_file(f"/proc/{owner}/status")
    except OSError:
        return None
    return int(status.partition(b"\nFDSize:")[2].split(None, 1)[0])


def _threads_of(pid: int) -> Steps[set[int]]:
    try:
        return set(map(int, (yield from numbers_in(f"/proc/{pid}/task"))))
    except OSError:
        return set()


def _lives(tid: int) -> bool:
    return os.path.exists(f"/proc/{tid}")


def _inode_of(owner: int, number: str, link: str) -> str:
    """Name the socket, pipe or memfd that a descriptor leads to; empty for a file, whatever its name."""
    if link.startswith("/memfd:"):
        # Not by a look at the file itself: what is called so may be on a file server that does not
        # answer. No file that has a path is on the mount of memfds.
        mount, inode = _mount_and_inode(owner, number)
        if mount in _memfd_mounts():
            device = _memfd_mounts()[mount]
            # Before 5.14 only a look tells, which asks nobody.
            return f"memfd:{device}:{inode or os.stat(f'/proc/{owner}/fd/{number}').st_ino}"
    return link if link.startswith(("socket:[", "pipe:[")) else ""


def _mount_and_inode(owner: int | str, number: int | str) -> tuple[int, int]:
    """Read of a descriptor what mount its file is on, and which inode it is; 0 for what is not told."""
    told = dict(_TOLD.findall(read_file(f"/proc/{owner}/fdinfo/{number}")))
    return int(told.get(b"mnt_id", 0)), int(told.get(b"ino", 0))


def memfd_devices() -> frozenset[int]:
    """Give the devices that memfds are on: no file that has a path is on one of them."""
    return frozenset(_memfd_mounts().values())


@cache
def _memfd_mounts() -> dict[int, int]:
    """Give the devices that memfds are on by their mounts, which only the kernel has."""
    found = {}
    for flags in (0, os.MFD_HUGETLB, *(os.MFD_HUGETLB | size for size in _HUGE_SIZES)):
        with suppress(OSError):
            fd = os.memfd_create("kmem-harness", os.MFD_CLOEXEC | flags)
            found[_mount_and_inode("self", fd)[0]] = os.fstat(fd).st_dev
            os.close(fd)
    return found


def _kind_by_inode(owner: int, number: str, link: str) -> str:
    if link.startswith("pipe:["):
        return "pipe"
    if link.startswith("/memfd:"):
        return "memfd"
    try:
        held = os.open(f"/proc/{owner}/fd/{number}", os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        return _OTHER_SOCKET
    try:
        return _kind_of_socket(f"/proc/self/fd/{held}")
    finally:
        os.close(held)


def _kind_of_socket(link: str) -> str:
    """Say which kind a socket of ours is. Raises: FileNotFoundError if it is something else."""
    if not os.readlink(link).startswith("socket:["):
        # Changed since, and a file server might have to be asked about what it is now.
        raise FileNotFoundError(link)
    try:
        protocol = os.getxattr(link, "system.sockprotoname")
    except OSError:
        return _OTHER_SOCKET
    return SOCKET_KINDS.get(protocol.rstrip(b"\0"), _OTHER_SOCKET)


def waiting_descriptors(owner: int, number: str) -> int | None:
    """Give how many descriptors wait in the messages a socket has not read, ``None`` if unknown."""
    for line in read_file(f"/proc/{owner}/fdinfo/{number}").splitlines():
        if line.startswith(b"scm_fds:"):
            return int(line.partition(b":")[2])
    return None


def compares_files() -> bool:
    """Say whether this kernel tells one open file from another."""
    one, other = os.pipe()
    again = os.dup(one)
    try:
        me = os.getpid()
        same = _kcmp(me, me, _KCMP_FILE, one, again)
        return same == 0 and _kcmp(me, me, _KCMP_FILE, one, other) > 0
    finally:
        for fd in (one, other, again):
            os.close(fd)


def _same_file(one: int, other: int, number: str) -> bool:
    """Say whether descriptor *number* of two processes is one open file."""
    return _kcmp(one, other, _KCMP_FILE, int(number), int(number)) == 0


_NR_KCMP = _SYS_KCMP.get(os.uname().machine)


def _kcmp(one: int, other: int, what: int, first: int = 0, second: int = 0) -> int:
    """Compare a resource of two processes: 0 if it is one and the same; -1 if none can tell."""
    if _NR_KCMP is None:
        return -1
    word = ctypes.c_ulong
    return int(libc().syscall(_NR_KCMP, one, other, what, word(first), word(second)))
