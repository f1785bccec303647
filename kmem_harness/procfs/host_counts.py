"""Read what the host counts for all: System V identifiers, dentries of missing names."""

from __future__ import annotations

import ctypes
import os

from kmem_harness.procfs.libc import libc
from kmem_harness.procfs.processes import read_file

__all__ = ["count_rows", "count_semaphores", "count_system_v", "nr_negative_dentries"]

# include/uapi/linux/{sem,msg,shm}.h: commands that say, among others, how many there are.
_SEM_INFO, _MSG_INFO, _SHM_INFO = 19, 12, 14
_SEMAPHORES, _TOGETHER = 9, 64  # all of all sets; as many make one object of their kind
_SEM_USED, _MSG_USED, _SHM_USED = 7, 0, 0  # the int of the answer that does


def count_system_v() -> dict[str, int]:
    """Count those of our own IPC namespace. Shape: by kind; 0 for none."""
    answer = (ctypes.c_int * 32)()
    asked = {
        "sysv-sem": (libc().semctl(0, 0, _SEM_INFO, ctypes.byref(answer)), answer[_SEM_USED]),
        "sysv-semaphores": (0, max(answer[_SEMAPHORES], 0) // _TOGETHER),
        "sysv-msg": (libc().msgctl(0, _MSG_INFO, ctypes.byref(answer)), answer[_MSG_USED]),
        "sysv-shm": (libc().shmctl(0, _SHM_INFO, ctypes.byref(answer)), answer[_SHM_USED]),
    }
    return {kind: used if outcome >= 0 else 0 for kind, (outcome, used) in asked.items()}


def count_rows(table: int) -> int:
    """Count the rows below the heading of a table in /proc/sysvipc, by its descriptor.

    It shows the IPC namespace of whoever opened it.
    """
    offset = rows = 0
    while chunk := os.pread(table, 1 << 16, offset):
        offset += len(chunk)
        rows += chunk.count(b"\n")
    return max(rows - 1, 0)


def count_semaphores(table: int) -> int:
    """Count semaphores by the table of their sets, likewise. Unit: 64 of them."""
    text, offset = b"", 0
    while chunk := os.pread(table, 1 << 16, offset):
        offset += len(chunk)
        text += chunk
    # The heading, then key, identifier, permissions, semaphores and more of each set.
    return sum(int(line.split()[3]) for line in text.split(b"\n")[1:-1]) // _TOGETHER


def nr_negative_dentries() -> int:
    """Count the dentries that say a name does not exist; 0 before Linux 5.0, which does not tell."""
    fields = read_file("/proc/sys/fs/dentry-state").split()
    return int(fields[4])
