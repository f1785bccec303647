"""Measure what one object of each kind costs on the running kernel.

A child in a fresh memcg makes some, and some more; the cost is the slope between what the kernel
counted then. What its address spaces grew by meanwhile is known from earlier kinds, and left out.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kmem_harness.calibrate.memcg import RealMemcg
from kmem_harness.core.errors import KmemHarnessError, UnsupportedHostError
from kmem_harness.procfs.memory_maps import AddressSpaces
from kmem_harness.procfs.steps import result_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LOADS",
    "Load",
    "Measurement",
    "ask",
    "directory_in",
    "load_command",
    "load_environment",
    "make_watchable",
    "measure",
    "no_place",
    "place_for",
    "slope",
]

LOAD_PROGRAM = os.path.join(os.path.dirname(__file__), "load.py")


class Asked(Protocol):
    """A load that runs: a process, or the first one of a box."""

    stdin: Any
    stdout: Any

    def wait(self) -> int:
        """Wait for its end."""


@dataclass(frozen=True)
class Load:
    """How a kind is measured: so many objects at each of a few steps, by which workload."""

    kind: str
    step: int
    workload: str = ""

    @property
    def program(self) -> str:
        """The workload of ``load.py``."""
        return self.workload or self.kind


@dataclass(frozen=True)
class Measurement:
    """What one object costs. Units: bytes; ``error`` is half the spread of the middle half."""

    nbytes: float
    error: float
    objects: int


_STEPS = 5
_DISKS = ("ext4", "xfs", "btrfs")
#: In this order: what an address space holds is known before it is left out of what a task costs.
LOADS = (
    Load("vma", 1000),
    Load("page-table", 200),
    Load("descriptor-table", 1),
    Load("file", 600),
    # Beyond 16384 pages of buffers a user's pipes get smaller, except root's own.
    Load("pipe", 300),
    Load("anon-file", 600, "eventfd"),
    Load("inotify", 20),
    Load("inotify-watch", 300),
    Load("epoll-watch", 600),
    Load("memfd", 300),
    Load("unix-socket", 300),
    Load("tcp-socket", 300),
    Load("tcp6-socket", 300),
    Load("udp-socket", 300),
    Load("netlink-socket", 300),
    Load("sysv-sem", 300),
    Load("sysv-msg", 300),
    Load("sysv-shm", 300),
    Load("dir-tmpfs", 300),
    Load("file-tmpfs", 300),
    Load("dir-ext4", 200),
    Load("file-ext4", 200),
    Load("thread", 40),
    Load("task", 20),
    Load("exec", 20),
)


def slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Give the median of the slopes between all *points*, and half the spread of their middle half.

    Source: Theil and Sen; one reading that another process disturbed changes nothing.
    Raises: KmemHarnessError where fewer than two points differ.
    """
    slopes = sorted(
        (right[1] - left[1]) / (right[0] - left[0])
        for left, right in itertools.combinations(points, 2)
        if right[0] != left[0]
    )
    if not slopes:
        raise KmemHarnessError("no objects were made, so what they cost is not known")
    quarter = len(slopes) // 4
    middle = slopes[quarter : len(slopes) - quarter]
    return statistics.median(slopes), (middle[-1] - middle[0]) / 2


def place_for(kind: str) -> str | None:
    """Find a directory for names of *kind*, on a tmpfs or on a disk; ``None`` if there is none."""
    wanted = "disk" if kind.endswith("-ext4") else "tmpfs"
    # Temporary files survive a reboot in /var/tmp, so it is on a disk where anything is.
    for place in ("/dev/shm", "/run", tempfile.gettempdir(), "/var/tmp"):  # noqa: S108
        system = _file_system(place)
        if os.access(place, os.W_OK) and (
            system == "tmpfs" if wanted == "tmpfs" else system in _DISKS
        ):
            return place
    return None


def directory_in(place: str) -> tempfile.TemporaryDirectory[str]:
    """Make a directory for a load, which goes with whoever leaves it as a context manager."""
    return tempfile.TemporaryDirectory(prefix=f"kmem-calibrate-{os.getpid()}-", dir=place)


def no_place(kind: str) -> UnsupportedHostError:
    """Say that no file system for *kind* is there."""
    system = "a tmpfs" if kind.endswith("-tmpfs") else " or ".join(_DISKS)
    return UnsupportedHostError(
        f"no directory on {system} that can be written to, for {kind}",
        missing=f"a directory on {system}",
        remedy=f"mount {system}, at /dev/shm or /run for a tmpfs, at /var/tmp for a disk",
    )


def _file_system(path: str) -> str:
    """Name the type of the file system *path* is on."""
    path = os.path.realpath(path)
    best = ("", "")
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split()
            if f"{path}/".startswith(f"{where.rstrip('/')}/") and len(where) >= len(best[0]):
                best = (where, kind)
    return best[1]


def load_command(workload: str, directory: str) -> list[str]:
    """Give the command that makes the objects of *workload*."""
    return [sys.executable, "-I", "-S", LOAD_PROGRAM, workload, directory]


def measure(
    load: Load,
    hierarchy: str,
    prices: Mapping[str, float],
    included: Mapping[str, int],
    steps: int = _STEPS,
) -> Measurement:
    """Measure one kind in a memcg of its own in *hierarchy*.

    *prices* are those of the kinds of address spaces, known by now; *included* says how many of
    them a task's own price includes. Raises: KmemHarnessError if too few objects can be made.
    """
    place = place_for(load.kind)
    if place is None:
        raise no_place(load.kind)
    with ExitStack() as closing:
        directory = closing.enter_context(directory_in(place))
        if load.kind == "inotify-watch":
            make_watchable(directory, load.step * (steps + 1))
        memcg = closing.enter_context(RealMemcg(hierarchy))
        child = closing.enter_context(_child(load.program, directory))
        ask(child)
        memcg.add(child.pid)
        spaces = AddressSpaces(dict(included))
        points: list[tuple[float, float]] = []
        # The first objects make room in caches that is used later: they only warm up.
        for number in range(steps + 1):
            answer = ask(child, load.step)
            if not answer.isdecimal():
                break
            at = _point(load.kind, memcg, spaces, child.pid, int(answer), prices)
            if number or load.kind == "descriptor-table":
                points.append(at)
        nbytes, error = slope(points)
        return Measurement(nbytes, error, int(points[-1][0] - points[0][0]))


def _point(
    kind: str,
    memcg: RealMemcg,
    spaces: AddressSpaces,
    pid: int,
    made: int,
    prices: Mapping[str, float],
) -> tuple[float, float]:
    """Give how many objects of *kind* there are, and what is charged for them."""
    usage = memcg.settled_usage()
    grown = result_of(spaces.sum(memcg.pids())).kinds
    nr: float = grown.pop(kind, made)
    if kind == "descriptor-table":
        nr = _table_units(pid)
    # Where only some kinds are measured, what has no price yet stays part of the load's.
    return nr, usage - sum(prices.get(name, 0.0) * number for name, number in grown.items())


def _table_units(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        (size,) = (line.split()[1] for line in status if line.startswith("FDSize:"))
    return int(size) / 256


def make_watchable(directory: str, nr: int) -> None:
    """Make directories for the load that watches them: they are not its own."""
    for each in range(nr):
        os.mkdir(f"{directory}/w{each}")


def ask(child: Asked, more: int | None = None) -> str:
    """Have *child* make *more* objects; give its answer. Raises: KmemHarnessError if it ends."""
    if more is not None:
        child.stdin.write(f"{more}\n".encode("ascii"))
        child.stdin.flush()
    answer = str(child.stdout.readline(), "ascii").strip()
    if not answer:
        raise KmemHarnessError(f"a load ended with {child.wait()} before it was done")
    return answer


def _child(workload: str, directory: str) -> subprocess.Popen[bytes]:
    """Start a load in the same directory and with one arena for all threads."""
    return subprocess.Popen(
        load_command(workload, directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=load_environment(),
        start_new_session=True,
    )


def load_environment() -> dict[str, str]:
    """Give the environment of a load: glibc's arenas would be mappings by the number of threads."""
    return {**os.environ, "MALLOC_ARENA_MAX": "1"}
