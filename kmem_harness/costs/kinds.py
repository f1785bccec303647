"""Say which kinds of kernel object each system call makes. Data; prices are elsewhere.

Only the number and scalar arguments count: whatever stands in the target's memory can be changed
between our look and the kernel's. Source: fs/, net/, ipc/ and kernel/fork.c (v5.10).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DIRECTORY",
    "INODE",
    "ON_REQUEST",
    "SYSCALL_KINDS",
    "Argument",
    "Case",
    "Modelled",
    "PassedThrough",
    "charged_syscalls",
    "check_kinds",
    "markdown",
]

#: Names get the kind of the file system they are made on, which the number does not tell: they
#: are charged as the dearest there may be, and placed by a census.
DIRECTORY = "directory"
INODE = "inode"
#: Kinds that are charged only where they are named.
ON_REQUEST = frozenset({"dentry"})

_CLONE_VM = 0x00000100
_CLONE_THREAD = 0x00010000
_O_CREAT = 0o100
_TMPFILE = 0o20000000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_TYPE, _STREAM = 0xF, 1
_WHOLE = 0xFFFFFFFF
_EPOLL_CTL_ADD = 1
_MAP_FIXED = 0x10
#: Any of these bits is set in a descriptor from 256 on.
_BEYOND_TABLE = 0xFFFFFF00


class Argument(NamedTuple):
    """Argument *number*, under *mask*, is *value*; with *value* ``None`` it is anything but 0."""

    number: int
    mask: int
    value: int | None = None

    def holds(self, word: int) -> bool:
        """Say whether it holds for the argument's value *word*."""
        return (word & self.mask) != 0 if self.value is None else (word & self.mask) == self.value


class Case(NamedTuple):
    """What a call makes if every test of ``when`` holds: one entry of ``makes`` for each object.

    ``copies_memory``: and the caller's address space once more.
    """

    makes: tuple[str, ...]
    when: tuple[Argument, ...] = ()
    copies_memory: bool = False


class Modelled(NamedTuple):
    """A call that is charged for what it makes; the first case whose tests hold counts.

    ``removes`` names: the call makes nothing, but may free one. ``only_if`` narrows the trap
    itself: the kernel runs the call untouched where it does not hold. ``uncertain``: what it made
    is known only afterwards, for its flags are in memory. ``missing``: why not all is charged.
    """

    cases: tuple[Case, ...]
    removes: bool = False
    only_if: Argument | None = None
    uncertain: bool = False
    missing: str = ""


class PassedThrough(NamedTuple):
    """A call that makes kernel objects which are not charged, and why."""

    reason: str


def _makes(*kinds: str) -> Modelled:
    return Modelled((Case(kinds),))


_OPENS = "socket buffers are not counted"
_FILE_AND_NAME = ("file", INODE)

SYSCALL_KINDS: dict[str, Modelled | PassedThrough] = {
    # Tasks. clone3 keeps its flags in memory, so it is charged as the dearer of the two kinds.
    "fork": Modelled((Case(("task",), copies_memory=True),)),
    "vfork": _makes("task"),
    "clone": Modelled(
        (
            Case(("thread",), (Argument(0, _CLONE_THREAD),)),
            Case(("task",), (Argument(0, _CLONE_VM),)),
            Case(("task",), copies_memory=True),
        )
    ),
    "clone3": Modelled((Case(("task",)),), uncertain=True),
    # Files and names.
    "open": Modelled((Case(_FILE_AND_NAME, (Argument(1, _O_CREAT | _TMPFILE),)), Case(("file",)))),
    "openat": Modelled(
        (Case(_FILE_AND_NAME, (Argument(2, _O_CREAT | _TMPFILE),)), Case(("file",)))
    ),
    "openat2": Modelled(
        (Case(("file",)),), missing="its flags are in memory, so a name it makes is not charged"
    ),
    "creat": _makes(*_FILE_AND_NAME),
    "mkdir": _makes(DIRECTORY),
    "mkdirat": _makes(DIRECTORY),
    "mknod": _makes(INODE),
    "mknodat": _makes(INODE),
    "symlink": _makes(INODE),
    "symlinkat": _makes(INODE),
    **dict.fromkeys(
        ("unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2"),
        Modelled((), removes=True),
    ),
    # Descriptors.
    **dict.fromkeys(
        ("pipe", "pipe2"), Modelled((Case(("pipe",)),), missing="what waits in it is not counted")
    ),
    "socket": Modelled(
        (
            Case(("unix-socket",), (Argument(0, _WHOLE, _AF_UNIX),)),
            Case(("tcp-socket",), (Argument(0, _WHOLE, _AF_INET), Argument(1, _TYPE, _STREAM))),
            Case(("tcp6-socket",), (Argument(0, _WHOLE, _AF_INET6), Argument(1, _TYPE, _STREAM))),
            Case(("netlink-socket",), (Argument(0, _WHOLE, _AF_NETLINK),)),
            Case(("udp-socket",)),
        ),
        missing=_OPENS,
    ),
    "socketpair": Modelled((Case(("unix-socket", "unix-socket")),), missing=_OPENS),
    # Which family it is stands in the listening socket: charged as the dearest until a census.
    "accept": Modelled((Case(("tcp6-socket",)),), uncertain=True, missing=_OPENS),
    "accept4": Modelled((Case(("tcp6-socket",)),), uncertain=True, missing=_OPENS),
    **dict.fromkeys(
        (
            "eventfd",
            "eventfd2",
            "epoll_create",
            "epoll_create1",
            "timerfd_create",
            "pidfd_open",
        ),
        _makes("anon-file"),
    ),
    # Given a descriptor they change it, and make nothing.
    **dict.fromkeys(
        ("signalfd", "signalfd4"),
        Modelled((Case(("anon-file",)),), only_if=Argument(0, _WHOLE, _WHOLE)),
    ),
    "inotify_init": _makes("inotify"),
    "inotify_init1": _makes("inotify"),
    "memfd_create": _makes("memfd"),
    "epoll_ctl": Modelled((Case(("epoll-watch",)),), only_if=Argument(1, _WHOLE, _EPOLL_CTL_ADD)),
    "inotify_add_watch": _makes("inotify-watch"),
    # A table grows to hold the number asked for; smaller ones are part of every process.
    **dict.fromkeys(
        ("dup2", "dup3"),
        Modelled((Case(("descriptor-table",)),), only_if=Argument(1, _BEYOND_TABLE)),
    ),
    # Address spaces.
    "mmap": Modelled(
        (Case(("vma",)),),
        # What a loader maps over a mapping of its own is three calls of four.
        only_if=Argument(3, _MAP_FIXED, 0),
        missing="mappings at a fixed address, or split by mprotect, madvise or munmap, and page "
        "tables filled by faults, are counted at a census and never refused",
    ),
    # Looking for a name leaves a dentry that says whether there is one.
    **dict.fromkeys(
        (
            *("stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2"),
            *("readlink", "readlinkat"),
        ),
        Modelled(
            (Case(("dentry",)),),
            missing="only where kinds ask for it, for it slows every look at a file; others' lookups "
            "blur the count, and dentries of names that exist are not in it",
        ),
    ),
    # System V IPC: an identifier that exists is found again by its key, which makes nothing.
    "semget": _makes("sysv-sem"),
    "msgget": _makes("sysv-msg"),
    "shmget": _makes("sysv-shm"),
    # Not charged.
    **dict.fromkeys(
        ("link", "linkat"),
        PassedThrough("a name without an inode: no file system tells how many there are"),
    ),
    "msgsnd": PassedThrough("messages come and go by calls that cannot be told apart"),
    "mq_open": PassedThrough("its queue lasts beyond the descriptor, unseen from outside"),
    "timer_create": PassedThrough("5.10 charges nothing for it (measured)"),
    **dict.fromkeys(
        ("setns", "unshare", "mount"),
        PassedThrough("namespaces and mounts cannot be counted from outside"),
    ),
    "add_key": PassedThrough("keys are charged to their user's quota, not to a memcg"),
    **dict.fromkeys(
        ("bpf", "perf_event_open", "userfaultfd"),
        PassedThrough("how much it takes stands in memory, or depends on later calls"),
    ),
}


def charged_syscalls(kinds: frozenset[str] | set[str]) -> dict[str, Modelled]:
    """Give the calls that make, or remove, any of *kinds*: those a filter has to trap."""
    names = bool({DIRECTORY, INODE} & kinds)
    return {
        name: entry
        for name, entry in SYSCALL_KINDS.items()
        if isinstance(entry, Modelled)
        and (
            (entry.removes and names)
            or any(kind in kinds for case in entry.cases for kind in case.makes)
        )
    }


def check_kinds(kinds: Sequence[str] | None) -> frozenset[str]:
    """Give the kinds of objects that *kinds* names; for ``None`` all but those of ON_REQUEST.

    Raises: ConfigurationError for one that no system call makes, for none at all, and for a string.
    """
    known = {
        kind
        for entry in SYSCALL_KINDS.values()
        if isinstance(entry, Modelled)
        for case in entry.cases
        for kind in case.makes
    }
    if kinds is None:
        return frozenset(known - ON_REQUEST)
    named = ", ".join(repr(kind) for kind in sorted(known))
    if isinstance(kinds, str) or not kinds:
        message = f"kinds={kinds!r} is not a list of kinds of objects; give some of {named}"
        raise ConfigurationError(message)
    for kind in kinds:
        if kind not in known:
            message = f"kind {kind!r} is not known; known are {named}"
            raise ConfigurationError(message)
    return frozenset(kinds)


def markdown() -> str:
    """Print the table as the README shows it: a row for each status, kind and reason."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, entry in SYSCALL_KINDS.items():
        if isinstance(entry, PassedThrough):
            key = ("passed through", entry.reason)
        elif entry.missing:
            key = ("partial", f"{_charged_as(entry)}; {entry.missing}")
        else:
            key = ("modelled", _charged_as(entry))
        rows.setdefault(key, []).append(f"`{name}`")
    lines = ["| system calls | | |", "|---|---|---|"]
    lines += [
        f"| {', '.join(names)} | {status} | {what} |" for (status, what), names in rows.items()
    ]
    return "\n".join(lines) + "\n"


def _charged_as(entry: Modelled) -> str:
    if entry.removes:
        return "watched: a name may go"
    makes = dict.fromkeys(" and ".join(case.makes) for case in entry.cases if case.makes)
    text = f"charged as {', or '.join(makes)}"
    if entry.uncertain:
        return f"{text} until a census tells"
    return f"{text}, by its arguments" if len(makes) > 1 else text


if __name__ == "__main__":
    sys.stdout.write(markdown())
