"""Read what the host counts for all: System V identifiers, dentries of missing names. Knows procfs."""

from __future__ import annotations

from contextlib import suppress

from kmem_harness.interposer.processes import read_file

__all__ = ["count_system_v", "nr_negative_dentries"]

_FILES = {"sysv-sem": "sem", "sysv-msg": "msg", "sysv-shm": "shm"}


def count_system_v() -> dict[str, int]:
    """Count those of our own IPC namespace, which local boxes share. Shape: by kind; 0 for none."""
    counts = dict.fromkeys(_FILES, 0)
    for kind, name in _FILES.items():
        with suppress(OSError):
            counts[kind] = read_file(f"/proc/sysvipc/{name}").count(b"\n") - 1
    return counts


def nr_negative_dentries() -> int:
    """Count the dentries that say a name does not exist; 0 before Linux 5.0, which does not tell."""
    fields = read_file("/proc/sys/fs/dentry-state").split()
    return int(fields[4])
