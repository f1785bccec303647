"""Count System V identifiers in our own IPC namespace, which local boxes share. Knows procfs."""

from __future__ import annotations

from contextlib import suppress

from kmem_harness.interposer.processes import read_file

__all__ = ["count_system_v"]

_FILES = {"sysv-sem": "sem", "sysv-msg": "msg", "sysv-shm": "shm"}


def count_system_v() -> dict[str, int]:
    """Count them. Shape: by kind; 0 where the kernel has none."""
    counts = dict.fromkeys(_FILES, 0)
    for kind, name in _FILES.items():
        with suppress(OSError):
            counts[kind] = read_file(f"/proc/sysvipc/{name}").count(b"\n") - 1
    return counts
