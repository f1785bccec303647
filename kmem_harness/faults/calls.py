"""Say which system calls a fault rule may name, in which groups, and what kind of object each makes.

Data, and its look-up. Knows no boxes; the kinds are those of the cost tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from kmem_harness.costs.kinds import ON_REQUEST, SYSCALL_KINDS, Argument, Case, Modelled

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ALSO",
    "CHARGE",
    "GROUPS",
    "PATH_ARGUMENT",
    "Call",
    "call_named",
    "charges",
    "injectable",
    "kinds",
]

#: The set of all calls that make kernel objects, priced or not. But for mappings: no program can do
#: anything about one that fails, for the loader crashes then before main begins.
CHARGE = "charge"

#: Calls that charge nothing by themselves and can be failed all the same. Not the others of the
#: kernel: what the shim needs to become the target, and what a target cannot end without.
_OTHERS = frozenset(
    {
        *("bind", "brk", "connect", "dup", "dup2", "dup3", "fallocate", "fsync", "ftruncate"),
        *("listen", "madvise", "mmap", "mprotect", "mremap", "rename", "renameat", "renameat2"),
        *("rmdir", "setsockopt", "unlink", "unlinkat", "write", "writev"),
    }
)

#: As strace names them, as far as they have calls that can be injected here.
GROUPS: dict[str, frozenset[str]] = {
    "%process": frozenset({"clone", "clone3", "fork", "vfork"}),
    "%network": frozenset(
        {"accept", "accept4", "bind", "connect", "listen", "setsockopt", "socket", "socketpair"}
    ),
    "%file": frozenset(
        {
            *("creat", "inotify_add_watch", "link", "linkat", "mkdir", "mkdirat", "mknod"),
            *("mknodat", "mount", "open", "openat", "openat2", "rename", "renameat"),
            *("renameat2", "rmdir", "symlink", "symlinkat", "unlink", "unlinkat"),
        }
    ),
    "%desc": frozenset(
        {
            *("creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl"),
            *("eventfd", "eventfd2", "fallocate", "fsync", "ftruncate", "inotify_init"),
            *("inotify_init1", "memfd_create", "open", "openat", "openat2", "perf_event_open"),
            *("pidfd_open", "pipe", "pipe2", "signalfd", "signalfd4", "timerfd_create"),
            *("userfaultfd", "write", "writev"),
        }
    ),
    "%memory": frozenset({"brk", "madvise", "mmap", "mprotect", "mremap"}),
    "%ipc": frozenset({"mq_open", "msgget", "msgsnd", "semget", "shmget"}),
}

#: What a C library makes of a call, or an architecture has in its place: a rule that names the first
#: means the others, too. Of ``fork``, only where they make a process.
ALSO: dict[str, tuple[str, ...]] = {
    "accept": ("accept4",),
    "dup2": ("dup3",),
    "epoll_create": ("epoll_create1",),
    "eventfd": ("eventfd2",),
    "fork": ("vfork", "clone", "clone3"),
    "inotify_init": ("inotify_init1",),
    "link": ("linkat",),
    "mkdir": ("mkdirat",),
    "mknod": ("mknodat",),
    "open": ("openat", "openat2"),
    "pipe": ("pipe2",),
    "rename": ("renameat", "renameat2"),
    "signalfd": ("signalfd4",),
    "symlink": ("symlinkat",),
    "unlink": ("unlinkat",),
}

#: Where a call's path stands among its arguments.
PATH_ARGUMENT: dict[str, int] = {
    **dict.fromkeys(("creat", "mkdir", "mknod", "open", "rename", "rmdir", "unlink"), 0),
    **dict.fromkeys(("link", "mount", "symlink", "inotify_add_watch"), 1),
    **dict.fromkeys(("mkdirat", "mknodat", "openat", "openat2", "renameat", "renameat2"), 1),
    "execve": 0,
    "execveat": 1,
    "unlinkat": 1,
    "symlinkat": 2,
    "linkat": 3,
}


@dataclass(frozen=True)
class Call:
    """One system call, and what it makes: the first case whose tests hold, if any does."""

    name: str
    #: Whether it makes kernel objects at all; with its arguments it may make none.
    charges: bool
    cases: tuple[Case, ...]
    only_if: Argument | None = None

    def kind(self, arguments: Sequence[int]) -> str | None:
        """Name the kind of object it would make with these argument words.

        ``None`` where no kind is known of it. Of several objects, the first.
        """
        if not self.makes(arguments):
            return None
        for case in self.cases:
            if all(test.holds(arguments[test.number]) for test in case.when):
                return case.all_kinds[0] if case.all_kinds else None
        return None

    def makes(self, arguments: Sequence[int]) -> bool:
        """Say whether it makes anything with these argument words."""
        return self.charges and (
            self.only_if is None or self.only_if.holds(arguments[self.only_if.number])
        )

    def may_make(self, wanted: frozenset[str]) -> bool:
        """Say whether it makes any of the kinds *wanted* with any arguments."""
        return any(case.all_kinds and case.all_kinds[0] in wanted for case in self.cases)


def injectable() -> frozenset[str]:
    """Name every call that a rule may name."""
    return frozenset(SYSCALL_KINDS) | _OTHERS


@cache
def charges() -> frozenset[str]:
    """Name every call that makes kernel objects: the set ``charge``.

    Not those that make only what is charged on request, as a look-up does: name them beside it.
    """
    found = set()
    for name in SYSCALL_KINDS:
        call = call_named(name)
        made = {kind for case in call.cases for kind in case.all_kinds}
        if call.charges and not (made and made <= ON_REQUEST):
            found.add(name)
    return frozenset(found) - GROUPS["%memory"]


def kinds() -> frozenset[str]:
    """Name every kind that a rule may ask for."""
    return frozenset(
        case.all_kinds[0]
        for name in SYSCALL_KINDS
        for case in call_named(name).cases
        if case.all_kinds
    )


@cache
def call_named(name: str) -> Call:
    """Give what is known of a call that may be injected."""
    entry = SYSCALL_KINDS.get(name)
    if isinstance(entry, Modelled):
        return Call(name, bool(entry.cases), entry.cases, entry.only_if)
    return Call(name, entry is not None, ())
