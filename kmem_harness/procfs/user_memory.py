"""Measure the user memory of a box's processes, from outside. Knows smaps_rollup; knows no limits.

A page that several processes share is divided among them, so that it counts once. Source:
Documentation/filesystems/proc.rst (smaps_rollup, since Linux 4.14).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kmem_harness.procfs.processes import read_file

if TYPE_CHECKING:
    from kmem_harness.procfs.steps import Steps

__all__ = ["user_memory_of"]

#: Anonymous memory and shared memory: what a memcg is charged for and nobody else can reclaim. Files
#: are left out: their pages belong to whoever read them first.
_PAGES = re.compile(rb"^(?:Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB", re.MULTILINE)


def user_memory_of(pids: list[int]) -> Steps[dict[int, int]]:
    """Give the user memory of each process. Units: bytes. Shape: by pid; the dead are left out."""
    found = {}
    for pid in pids:
        yield
        try:
            text = read_file(f"/proc/{pid}/smaps_rollup")
        except OSError:  # it is gone, or has no memory any more
            continue
        found[pid] = sum(map(int, _PAGES.findall(text))) * 1024
    return found
