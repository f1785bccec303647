"""See what a run may have left behind. Knows procfs, mounts and cgroups; imports nothing of the package."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["PidNamespace", "cgroups_of", "lives", "procfs_mounts"]

_CGROUPS = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]


def lives(pid: int) -> bool:
    """Whether a process runs; a zombie does not: its parent is the test, or whoever adopts orphans."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


class PidNamespace:
    """A pid namespace, held open: the number of one that is gone is soon another's."""

    def __init__(self, pid: int) -> None:
        """Hold the one that *pid* is in."""
        self._held = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def is_empty(self) -> bool:
        """Whether nothing runs in it."""
        processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return not any(self._has(entry) and lives(int(entry.name)) for entry in processes)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._held)

    def _has(self, process: Path) -> bool:
        with suppress(OSError):
            return os.path.samestat((process / "ns/pid").stat(), os.fstat(self._held))
        return False


def procfs_mounts() -> set[str]:
    """List the mounts of the kind a box makes; an engine beside us makes and ends its own."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if " - proc " in line}


def cgroups_of(owner: int) -> list[Path]:
    """List the cgroups of boxes that the process *owner* has started."""
    pattern = f"kmem-harness-{owner:x}-*"
    return [found for root in _CGROUPS if root.is_dir() for found in root.glob(pattern)]
