"""Bound the tasks of slices by the kernel's own means: ``TasksMax=`` over all services in a slice.

Where a slice has a bound, its services' processes stand in pids cgroups of ours, one in the other as
the slices are, instead of each box in one of its own. Needs root and a writable pids hierarchy.
"""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.services.unitfile.names import slice_path
from kmem_harness.services.unitfile.values import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["TaskBounds", "pids_hierarchy"]

#: Our program in each box, beside the tasks of the service; the box's init stands outside.
_OWN_TASKS = 1
_numbers = itertools.count(1)


def pids_hierarchy() -> str | None:
    """Find a pids hierarchy in which we may make cgroups; ``None`` without root or one."""
    if os.geteuid() != 0:
        return None
    if os.access("/sys/fs/cgroup/pids/cgroup.procs", os.W_OK):
        return "/sys/fs/cgroup/pids"
    with suppress(OSError), open("/sys/fs/cgroup/cgroup.subtree_control", encoding="ascii") as file:
        if "pids" in file.read().split() and os.access("/sys/fs/cgroup", os.W_OK):
            return "/sys/fs/cgroup"
    return None


class TaskBounds:
    """The bounds of one run of units."""

    def __init__(self, units: Mapping[str, Unit]) -> None:
        """Make the cgroups that *units* ask for: none, if no slice has a bound or none can be had."""
        self._units = units
        self._made: list[str] = []
        self._paths: dict[str, str] = {}
        hierarchy = pids_hierarchy()
        if hierarchy is None:
            return
        root = os.path.join(hierarchy, f"kmem-services-{os.getpid()}-{next(_numbers)}")
        for name, unit in units.items():
            if unit.service is not None and self._bounded_above(unit):
                self._make(root, name, unit)

    def has(self, unit: str) -> bool:
        """Say whether a service is bound here, rather than by its box."""
        return unit in self._paths

    def enter(self, unit: str, pids: Iterable[int]) -> None:
        """Put the processes *pids* of this host, and what they start, under the bounds of *unit*.

        Raises: OSError.
        """
        for pid in pids:
            with suppress(ProcessLookupError):
                _write(f"{self._paths[unit]}/cgroup.procs", str(pid))

    def refused(self, unit: str) -> dict[str, int]:
        """Count the forks of *unit* that were refused here, by the unit whose ``TasksMax=`` it was."""
        path = self._paths.get(unit)
        count = _refused_by(path) if path else 0
        if not path or not count:
            return {}
        own = self._units[unit].limits.tasks_max
        at_its_own = own != NO_LIMIT and _number(f"{path}/pids.peak") >= own + _OWN_TASKS
        return {unit if at_its_own else self._bounded_above(self._units[unit])[0]: count}

    def close(self) -> None:
        """Remove the cgroups."""
        for path in reversed(self._made):
            with suppress(OSError):
                os.rmdir(path)

    def _bounded_above(self, unit: Unit) -> list[str]:
        """List the slices above a unit that have a bound, the nearest first."""
        found = []
        above = self._units.get(unit.slice)
        while above is not None:
            if above.limits.tasks_max != NO_LIMIT:
                found.append(above.text)
            above = self._units.get(above.slice) if above.slice != "-.slice" else None
        return found

    def _make(self, root: str, name: str, unit: Unit) -> None:
        below = [part for part in slice_path(unit.slice).split("/") if part]
        path = root
        self._mkdir(path)
        for part in (*below, name):
            _delegate(path)
            path = os.path.join(path, part)
            self._mkdir(path)
            limits = self._units[part].limits if part in self._units else None
            if limits is not None and limits.tasks_max != NO_LIMIT:
                ours = _OWN_TASKS * (1 if part == name else self._nr_services(part))
                _write(f"{path}/pids.max", str(limits.tasks_max + ours))
        self._paths[name] = path

    def _nr_services(self, slice_name: str) -> int:
        inside = slice_path(slice_name)
        return sum(
            unit.service is not None and f"{slice_path(unit.slice)}/".startswith(f"{inside}/")
            for unit in self._units.values()
        )

    def _mkdir(self, path: str) -> None:
        if not os.path.isdir(path):
            os.mkdir(path)
            self._made.append(path)


def _delegate(path: str) -> None:
    """Have the cgroups below *path* count tasks, too: version 2 alone asks for that."""
    with suppress(FileNotFoundError):
        if os.path.exists(f"{path}/cgroup.subtree_control"):
            _write(f"{path}/cgroup.subtree_control", "+pids")


def _refused_by(path: str) -> int:
    with suppress(OSError), open(f"{path}/pids.events", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("max "))
    return 0


def _number(path: str) -> int:
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return int(file.read())
    return 0


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
