"""Bound the number of tasks of a box by the kernel's own means, beside the emulated limit."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

from kmem_harness.core.errors import UnsupportedHostError

__all__ = ["Backstop", "make_backstop"]


class Backstop(NamedTuple):
    """A hard bound: a pids cgroup of its own, or RLIMIT_NPROC. Units: tasks."""

    cgroup: str | None = None
    nproc: int | None = None

    def options(self) -> list[str]:
        """Say it the way ``kmem-init`` reads it."""
        if self.cgroup is not None:
            return [f"cgroup={self.cgroup}"]
        return [f"nproc={self.nproc}"]

    def refused(self) -> int | None:
        """Say how many forks it has refused; ``None`` where that is not known."""
        if self.cgroup is None or not os.path.isdir(self.cgroup):
            return None
        return sum(_refused_by(directory) for directory, _, _ in os.walk(self.cgroup))

    def remove(self) -> None:
        """Remove the cgroup with those below it, if the guard could not. Raises: OSError."""
        if self.cgroup is not None and os.path.isdir(self.cgroup):
            for directory, _, _ in os.walk(self.cgroup, topdown=False):
                os.rmdir(directory)


def make_backstop(name: str, pids_max: int, isolation: str) -> Backstop:
    """Make a bound of *pids_max* tasks for the box *name*, its init and first process included.

    Raises: UnsupportedHostError where root has no pids cgroup to write to: RLIMIT_NPROC does
    not bind root.
    """
    parent = _pids_hierarchy()
    if parent is not None:
        # The box lies one below its limit: what its root sees as its own does not hold that.
        cgroup = os.path.join(parent, f"kmem-harness-{name}")
        os.makedirs(os.path.join(cgroup, "box"))
        with open(os.path.join(cgroup, "pids.max"), "w", encoding="ascii") as limit:
            limit.write(str(pids_max))
        return Backstop(cgroup=cgroup)
    if os.geteuid() == 0:
        message = f"pids_max={pids_max} cannot be enforced here"
        raise UnsupportedHostError(
            message,
            missing="a writable pids cgroup (RLIMIT_NPROC does not bind root)",
            remedy="mount a pids cgroup, run as an ordinary user, or leave pids_max out",
        )
    # A user namespace counts its own tasks; elsewhere the user's other tasks count, too.
    others = 0 if isolation == "user" else _tasks_of(os.geteuid())
    return Backstop(nproc=others + pids_max)


def _refused_by(cgroup: str) -> int:
    """Read one cgroup's own count: the kernel counts where the fork was, not where the limit is."""
    with suppress(OSError), open(f"{cgroup}/pids.events", encoding="ascii") as events:
        return sum(int(line.split()[1]) for line in events if line.startswith("max "))
    return 0


def _pids_hierarchy() -> str | None:
    """Find a pids cgroup in which we may make another."""
    for candidate in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        if _is_pids(candidate) and os.access(candidate, os.W_OK) and os.geteuid() == 0:
            return candidate
    return None


def _is_pids(directory: str) -> bool:
    if directory.endswith("/pids"):
        return os.path.exists(os.path.join(directory, "cgroup.procs"))
    try:
        with open(os.path.join(directory, "cgroup.subtree_control"), encoding="ascii") as enabled:
            return "pids" in enabled.read().split()
    except OSError:
        return False


def _tasks_of(uid: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += os.stat(f"/proc/{name}/task").st_nlink - 2
            except OSError:
                continue
    return count
