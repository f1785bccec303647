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
    "BOUNDED",
    "DIRECTORY",
    "INODE",
    "ON_REQUEST",
    "SYSCALL_KINDS",
    "Argument",
    "Case",
    "Modelled",
    "PassedThrough",
    "Scaled",
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
_CLONE_PIDFD = 0x00001000
_CLONE_THREAD = 0x00010000
_O_CREAT = 0o100
_TMPFILE = 0o20000000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_TYPE, _STREAM = 0xF, 1
_WHOLE = 0xFFFFFFFF
_EPOLL_CTL_ADD = 1
_MAP_FIXED = 0x10
_SO_PEERPIDFD = 77
_F_DUPFD, _F_DUPFD_CLOEXEC = 0, 1030
#: TIOCGPTPEER; NS_GET_USERNS and NS_GET_PARENT; PIDFD_GET_CGROUP_NAMESPACE to ..._UTS_NAMESPACE.
_OPENING_IOCTLS = (0x5441, 0xB701, 0xB702, *range(0xFF01, 0xFF0B))
#: Any of these bits is set in a descriptor from 256 on.
_BEYOND_TABLE = 0xFFFFFF00


class Argument(NamedTuple):
    """Argument *number*, under *mask*, is *value*; with *value* ``None`` it is anything but 0.

    Or it is one of ``among``, which stands alone.
    """

    number: int
    mask: int
    value: int | None = None
    among: tuple[int, ...] = ()

    def holds(self, word: int) -> bool:
        """Say whether it holds for the argument's value *word*."""
        word &= self.mask
        if self.among:
            return word in self.among
        return word != 0 if self.value is None else word == self.value


class Scaled(NamedTuple):
    """One object more of ``kind`` for each ``per`` that argument ``number`` counts; up to ``most``.

    What has been begun counts as a whole with ``begun``.
    """

    kind: str
    number: int
    per: int
    most: int
    begun: bool = True


class Case(NamedTuple):
    """What a call makes if every test of ``when`` holds: one entry of ``makes`` for each object.

    ``copies_memory``: and the caller's address space once more; ``scaled``: and as many as it asks for.
    """

    makes: tuple[str, ...]
    when: tuple[Argument, ...] = ()
    copies_memory: bool = False
    scaled: Scaled | None = None

    @property
    def all_kinds(self) -> tuple[str, ...]:
        """Name the kinds of what it makes, however many."""
        return self.makes if self.scaled is None else (*self.makes, self.scaled.kind)


class Modelled(NamedTuple):
    """A call that is charged for what it makes; the first case whose tests hold counts.

    ``removes`` names: the call makes nothing, but may free one. ``only_if`` narrows the trap
    itself: the kernel runs the call untouched where it does not hold. ``uncertain``: what it made
    is known only afterwards, for its flags are in memory. ``missing``: why not all is charged.
    ``table``: which argument says how far a table of descriptors has to reach.
    """

    cases: tuple[Case, ...]
    removes: bool = False
    only_if: Argument | None = None
    uncertain: bool = False
    missing: str = ""
    table: int = 1


class PassedThrough(NamedTuple):
    """A call that makes kernel objects which are not charged, and why."""

    reason: str


def _makes(*kinds: str) -> Modelled:
    return Modelled((Case(kinds),))


_OPENS = (
    "socket buffers are not counted: up to net.core.wmem_max for each, as its owner sets SO_SNDBUF, and "
    "2.1 MB measured for a pair that is filled with small packets"
)
_MOUNTS = "a detached mount takes 1.6 KB more, and is not counted"
_RULES = "its rules are not counted"
_FILE_AND_NAME = ("file", INODE)

SYSCALL_KINDS: dict[str, Modelled | PassedThrough] = {
    # Tasks. clone3 keeps its flags in memory, so it is charged as the dearer of the two kinds.
    "fork": Modelled((Case(("task",), copies_memory=True),)),
    "vfork": _makes("task"),
    "clone": Modelled(
        (
            Case(("thread",), (Argument(0, _CLONE_THREAD),)),
            Case(("task", "anon-file"), (Argument(0, _CLONE_VM), Argument(0, _CLONE_PIDFD))),
            Case(("task", "anon-file"), (Argument(0, _CLONE_PIDFD),), copies_memory=True),
            Case(("task",), (Argument(0, _CLONE_VM),)),
            Case(("task",), copies_memory=True),
        )
    ),
    "clone3": Modelled(
        (Case(("task",), copies_memory=True),),
        uncertain=True,
        missing="its flags are in memory, so a descriptor of the child (CLONE_PIDFD, 464 bytes) is not",
    ),
    # Files and names.
    "open": Modelled((Case(_FILE_AND_NAME, (Argument(1, _O_CREAT | _TMPFILE),)), Case(("file",)))),
    "openat": Modelled(
        (Case(_FILE_AND_NAME, (Argument(2, _O_CREAT | _TMPFILE),)), Case(("file",)))
    ),
    # Its flags are in memory: taken for one that makes a name until a census tells.
    "openat2": Modelled((Case(_FILE_AND_NAME),), uncertain=True),
    "open_by_handle_at": _makes("file"),
    # A socket's path is a name; which family it is stands in memory.
    "bind": Modelled((Case((INODE,)),), uncertain=True),
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
    # Extended attributes: a tmpfs keeps them in memory, and counts them as inodes of 1 KiB (from 6.6
    # on); elsewhere they are on the disk, as a census tells.
    **dict.fromkeys(
        ("setxattr", "lsetxattr", "fsetxattr"),
        Modelled((Case((), scaled=Scaled(INODE, 3, 1024, 64)),), uncertain=True),
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
    "fanotify_init": _makes("inotify"),
    "memfd_create": _makes("memfd"),
    "memfd_secret": _makes("memfd"),
    "userfaultfd": _makes("userfaultfd"),
    "landlock_create_ruleset": Modelled(
        (Case(("anon-file",)),), only_if=Argument(2, _WHOLE, 0), missing=_RULES
    ),
    **dict.fromkeys(("fsopen", "fspick"), _makes("fs-context")),
    "open_tree": Modelled((Case(("file",)),), missing=_MOUNTS),
    "open_tree_attr": Modelled((Case(("file",)),), missing=_MOUNTS),
    "fsmount": Modelled((Case(("file",)),), missing=_MOUNTS),
    # Of many calls in one, those that open something.
    "getsockopt": Modelled((Case(("anon-file",)),), only_if=Argument(2, _WHOLE, _SO_PEERPIDFD)),
    "ioctl": Modelled((Case(("file",)),), only_if=Argument(1, _WHOLE, among=_OPENING_IOCTLS)),
    "fcntl": Modelled(
        (Case(("descriptor-table",)),),
        only_if=Argument(1, _WHOLE, among=(_F_DUPFD, _F_DUPFD_CLOEXEC)),
        table=2,
        missing="locks (F_SETLK and the like) take some 200 bytes each and are not, nor does "
        "anything limit them; a pipe that is made larger (F_SETPIPE_SZ) takes 40 bytes a page",
    ),
    "io_setup": Modelled(
        (Case(("aio-context",)),), missing="beyond the first 31 events it takes 32 bytes for each"
    ),
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
    "semget": Modelled(
        (Case(("sysv-sem",), scaled=Scaled("sysv-semaphores", 1, 64, 500, begun=False)),)
    ),
    "msgget": Modelled(
        (Case(("sysv-msg",)),),
        missing="messages: up to kernel.msgmnb in each queue (16 KiB, and 17 KB measured)",
    ),
    "shmget": _makes("sysv-shm"),
    # Not charged.
    **dict.fromkeys(
        ("link", "linkat"),
        PassedThrough(
            "a name without an inode: no file system tells how many there are; 205 bytes each, up to "
            "65,000 for one inode of ext4, which reclaim takes back"
        ),
    ),
    **dict.fromkeys(
        ("msgsnd",),
        PassedThrough(
            "messages come and go by calls that cannot be told apart; up to 17 KB for each queue of "
            "System V, and RLIMIT_MSGQUEUE (819,200 bytes) for all of POSIX"
        ),
    ),
    "mq_open": PassedThrough(
        "its queue lasts beyond the descriptor, unseen from outside; all of a user hold no more than "
        "RLIMIT_MSGQUEUE (819,200 bytes, nine queues as they come)"
    ),
    "timer_create": PassedThrough(
        "5.10 charges nothing for it (measured); 392 bytes each later, up to RLIMIT_SIGPENDING"
    ),
    **dict.fromkeys(
        ("setns", "unshare", "mount"),
        PassedThrough(
            "namespaces and mounts cannot be counted from outside; 90 KB for a network, 20 KB for a copy "
            "of some thirty mounts, and 1.6 KB for a mount of a tmpfs"
        ),
    ),
    **dict.fromkeys(
        ("add_key",),
        PassedThrough(
            "keys are charged to their user's quota (20,000 bytes and 200 keys), not to a memcg"
        ),
    ),
    **dict.fromkeys(
        ("bpf", "perf_event_open"),
        PassedThrough(
            "how much it takes stands in memory, or depends on later calls; programs, maps and buffers "
            "of megabytes, where a box may make them at all"
        ),
    ),
}

#: More of them, which no fault rule need fail and no plugin price: what they take is bounded otherwise.
BOUNDED: dict[str, PassedThrough] = {
    **dict.fromkeys(
        ("rt_sigqueueinfo", "rt_tgsigqueueinfo"),
        PassedThrough("a signal that waits takes 89 bytes, up to RLIMIT_SIGPENDING of them"),
    ),
    "connect": PassedThrough(
        "a connection that nobody has accepted is in no table; 2.4 KB each, up to net.core.somaxconn "
        "(4,096) for each listening socket"
    ),
    **dict.fromkeys(
        ("fsconfig", "mount_setattr", "move_mount"),
        PassedThrough("what mounts take is said at mount"),
    ),
    **dict.fromkeys(
        ("keyctl", "request_key"),
        PassedThrough("keys are charged to their user's quota, as by add_key"),
    ),
    "mq_timedsend": PassedThrough(
        "messages of POSIX queues are within RLIMIT_MSGQUEUE, as mq_open says"
    ),
    "fanotify_mark": PassedThrough("marks are as inotify's, up to fs.fanotify.max_user_marks"),
    **dict.fromkeys(
        ("seccomp", "prctl"),
        PassedThrough(
            "a filter takes up to 40 KB, and all of a process up to 0.3 MB; whoever it forks shares them"
        ),
    ),
    **dict.fromkeys(
        ("landlock_add_rule", "landlock_restrict_self"),
        PassedThrough(
            "a rule takes some 100 bytes and keeps an inode in memory; its ruleset is one descriptor"
        ),
    ),
    "modify_ldt": PassedThrough("up to 64 KB for each address space"),
    "setgroups": PassedThrough(
        "up to 0.5 MB for each process that has the right to it, shared with whoever it forks"
    ),
    **dict.fromkeys(("setxattrat",), PassedThrough("its size is in memory; otherwise as setxattr")),
    "flock": PassedThrough("a lock takes some 200 bytes, one for each open file"),
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
            or any(kind in kinds for case in entry.cases for kind in case.all_kinds)
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
        for kind in case.all_kinds
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
    """Print the table as the guide shows it: a row for each status, kind and reason."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, entry in (*SYSCALL_KINDS.items(), *BOUNDED.items()):
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
    makes = dict.fromkeys(" and ".join(case.all_kinds) for case in entry.cases if case.all_kinds)
    text = f"charged as {', or '.join(makes)}"
    if entry.uncertain:
        return f"{text} until a census tells"
    return f"{text}, by its arguments" if len(makes) > 1 else text


if __name__ == "__main__":
    sys.stdout.write(markdown())
