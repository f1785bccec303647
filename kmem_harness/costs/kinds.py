"""Say which kind of kernel object each trapped system call makes. Data; prices are elsewhere.

Source: kernel/fork.c (v5.10) for tasks. What a kind costs stands in the cost tables.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SYSCALL_KINDS",
    "Modelled",
    "PassedThrough",
    "check_kinds",
    "markdown",
    "modelled_syscalls",
]

_CLONE_THREAD = 0x00010000


@dataclass(frozen=True)
class Modelled:
    """A call that is charged as *kind*, or as *kind_if_set* if argument *arg* has *mask* set."""

    kind: str
    arg: int = 0
    mask: int = 0
    kind_if_set: str | None = None


@dataclass(frozen=True)
class PassedThrough:
    """A call that makes kernel objects which are not charged yet, and why."""

    reason: str


_NO_CENSUS = PassedThrough("frees of this kind are not seen yet, so it would only ever be charged")

#: clone3 keeps its flags in memory that the target can rewrite while we look, so it is charged
#: as the dearer of the two kinds; the next census finds out which it was.
SYSCALL_KINDS: dict[str, Modelled | PassedThrough] = {
    "fork": Modelled("task"),
    "vfork": Modelled("task"),
    "clone": Modelled("task", arg=0, mask=_CLONE_THREAD, kind_if_set="thread"),
    "clone3": Modelled("task"),
} | dict.fromkeys(
    (
        "accept",
        "accept4",
        "add_key",
        "bpf",
        "creat",
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "eventfd",
        "eventfd2",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "link",
        "linkat",
        "memfd_create",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "mount",
        "mq_open",
        "msgget",
        "msgsnd",
        "open",
        "openat",
        "openat2",
        "perf_event_open",
        "pidfd_open",
        "pipe",
        "pipe2",
        "semget",
        "setns",
        "shmget",
        "signalfd",
        "signalfd4",
        "socket",
        "socketpair",
        "symlink",
        "symlinkat",
        "timer_create",
        "timerfd_create",
        "unshare",
        "userfaultfd",
    ),
    _NO_CENSUS,
)


def modelled_syscalls() -> dict[str, Modelled]:
    """Give the calls that are charged, by name: those the filter has to trap."""
    return {name: entry for name, entry in SYSCALL_KINDS.items() if isinstance(entry, Modelled)}


def check_kinds(kinds: Sequence[str] | None) -> frozenset[str]:
    """Give the kinds of objects that *kinds* names, all of them for ``None``.

    Raises: ConfigurationError for one that no system call makes, for none at all, and for a string.
    """
    known = {
        kind
        for entry in modelled_syscalls().values()
        for kind in (entry.kind, entry.kind_if_set)
        if kind
    }
    if kinds is None:
        return frozenset(known)
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
        elif entry.kind_if_set:
            key = ("modelled", f"charged as {entry.kind}, or as {entry.kind_if_set} by its flags")
        else:
            key = ("modelled", f"charged as {entry.kind}")
        rows.setdefault(key, []).append(f"`{name}`")
    lines = ["| system calls | | |", "|---|---|---|"]
    lines += [
        f"| {', '.join(names)} | {status} | {what} |" for (status, what), names in rows.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
