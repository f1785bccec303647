"""What each way of keeping a local box apart is, and what it takes away. Data; tries nothing out."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["ISOLATIONS", "Isolation", "isolations_by_preference"]


class Isolation(NamedTuple):
    """One way: its name, what it is made of, how to get it, and what programs miss in it."""

    name: str
    made_of: str
    remedy: str
    #: Whole clauses, each about one thing that works outside of a box and not in it.
    takes_away: tuple[str, ...]


_OF_NAMESPACES = (
    "processes outside of the box are not seen, and pids are the box's own",
    "System V objects and POSIX message queues are not shared with the outside",
    "what is mounted in the box is not seen outside, and is gone with it",
)
_OF_FILTERS = (
    (
        "an ordinary user's limited box is under no_new_privs: su, sudo and programs with capabilities "
        "gain nothing"
    ),
)

#: By name.
ISOLATIONS = {
    one.name: one
    for one in (
        Isolation(
            "user",
            "user + pid + mount + IPC namespaces",
            "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0; not possible in a chroot)",
            (
                (
                    "root's rights end at the box: no port below 1024, no raw socket, no negative nice, "
                    "no mlock beyond the limit, no mknod, no raised hard limit"
                ),
                (
                    "an ordinary user's box knows no id but its own: files of others belong to nobody, "
                    "and setuid programs gain nothing"
                ),
                *_OF_NAMESPACES,
                *_OF_FILTERS,
            ),
        ),
        Isolation(
            "pid",
            "pid + mount + IPC namespaces",
            "run as root with CAP_SYS_ADMIN; not needed where user namespaces work",
            (
                (
                    "cgroups are read-only, so that a box cannot leave its own (EROFS; use isolation none "
                    "to run a container engine in a box)"
                ),
                *_OF_NAMESPACES,
            ),
        ),
        Isolation(
            "none",
            "subreaper without namespaces",
            "allow this user to start processes",
            (
                (
                    "ptrace, process_vm_readv, process_vm_writev, pidfd_getfd and kill(-1) are denied "
                    "under a limit (EPERM)"
                ),
                "System V objects of an ordinary user's box stay when it ends",
                *_OF_FILTERS,
            ),
        ),
    )
}


def isolations_by_preference() -> tuple[str, ...]:
    """List them, the best for us first: root keeps its rights, others are kept apart."""
    return ("pid", "user", "none") if os.geteuid() == 0 else ("user", "pid", "none")
