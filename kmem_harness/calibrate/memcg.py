"""Read what a real kernel counts: one memory cgroup of our own, of version 1 or 2.

Knows cgroupfs. Units: bytes.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.core.errors import UnsupportedHostError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["RealMemcg", "find_hierarchy", "kernel_bytes"]

_USAGE_V1 = "memory.kmem.usage_in_bytes"
#: In memory.stat before 5.18, which has the sum as "kernel".
_SUMMANDS = ("kernel_stack", "slab", "sock", "pagetables", "percpu")
_REMEDY = (
    "run as root, on a kernel with memory cgroups that is booted with cgroup v1 "
    "(systemd.unified_cgroup_hierarchy=0) and without cgroup.memory=nokmem; or with cgroup v2 and "
    '"memory" in cgroup.subtree_control of its root'
)
_LOOK_SECONDS = 0.025
_SAME_LOOKS = 3
_SETTLE_SECONDS = 3.0
_REMOVE_SECONDS = 5.0


def find_hierarchy(mounts: str = "/proc/self/mounts") -> str:
    """Find where memory cgroups are made that count kernel memory.

    Raises: UnsupportedHostError that says what is missing.
    """
    with open(mounts, encoding="ascii", errors="replace") as table:
        rows = [line.split() for line in table]
    why = "no memory cgroups are mounted"
    for _, path, kind, options, *_ in rows:
        if kind == "cgroup" and "memory" in options.split(","):
            if not os.path.exists(f"{path}/{_USAGE_V1}"):
                why = f"{path} has no {_USAGE_V1}: its kernel does not count kernel memory"
                continue
        elif kind != "cgroup2" or not _hands_down_memory(path):
            continue
        if os.geteuid() == 0 and os.access(path, os.W_OK):
            return path
        why = f"no cgroup may be made in {path}, as uid {os.geteuid()}"
    raise UnsupportedHostError(
        f"kernel memory cannot be measured on this host: {why}",
        missing="a memory cgroup whose kernel counts",
        remedy=_REMEDY,
    )


def kernel_bytes(stat: str) -> int:
    """Sum up the kernel's memory in the text of a memory.stat (cgroup v2).

    Raises: UnsupportedHostError where page tables are counted, and nowhere told (before 5.11): by
    a table measured so, twice as many forks would fit.
    """
    figures = dict(line.split() for line in stat.splitlines())
    if "kernel" in figures:
        return int(figures["kernel"])
    if "pagetables" not in figures:
        raise UnsupportedHostError(
            "kernel memory cannot be measured with this host's cgroup v2: its memory.stat has "
            "neither 'kernel' nor 'pagetables'",
            missing="a memory.stat that tells all of the kernel's memory",
            remedy="boot with cgroup v1 (systemd.unified_cgroup_hierarchy=0), or measure on Linux 5.18 "
            "or later",
        )
    return sum(int(figures.get(name, 0)) for name in _SUMMANDS)


def _hands_down_memory(path: str) -> bool:
    """Say whether a cgroup v2 made in *path* has memory counted."""
    try:
        with open(f"{path}/cgroup.subtree_control", encoding="ascii") as enabled:
            return "memory" in enabled.read().split()
    except OSError:
        return False


class RealMemcg:
    """A fresh memory cgroup; leaving it as a context manager ends what is in it and removes it.

    Raises: UnsupportedHostError if it cannot be made.
    """

    def __init__(self, hierarchy: str) -> None:
        """Make one in *hierarchy*."""
        self.path = f"{hierarchy}/kmem-calibrate-{os.getpid()}-{time.monotonic_ns():x}"
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise UnsupportedHostError(
                f"no memory cgroup can be made: {error}",
                missing="a memory cgroup of our own",
                remedy=_REMEDY,
            ) from error
        self._is_v1 = os.path.exists(f"{self.path}/{_USAGE_V1}")

    def __enter__(self) -> Self:
        """Give the memcg itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove it."""
        self.remove()

    def add(self, pid: int) -> None:
        """Charge from now on what *pid* and its later children take."""
        with open(f"{self.path}/cgroup.procs", "w", encoding="ascii") as procs:
            procs.write(str(pid))

    def pids(self) -> list[int]:
        """List the processes in it."""
        with open(f"{self.path}/cgroup.procs", encoding="ascii") as procs:
            return [int(line) for line in procs]

    def usage(self) -> int:
        """Read what is charged now."""
        if self._is_v1:
            with open(f"{self.path}/{_USAGE_V1}", encoding="ascii") as usage:
                return int(usage.read())
        with open(f"{self.path}/memory.stat", encoding="ascii") as stat:
            return kernel_bytes(stat.read())

    def settled_usage(self) -> int:
        """Read what is charged once grace periods have passed: when it has stopped changing."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        last, same = self.usage(), 1
        while same < _SAME_LOOKS and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            now = self.usage()
            last, same = now, same + 1 if now == last else 1
        return last

    def remove(self) -> None:
        """End what is in it, and remove it. Raises: OSError if something would not end."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        while True:
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            try:
                os.rmdir(self.path)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_SECONDS)
            else:
                return
