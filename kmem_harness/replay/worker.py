"""One helper process of a recording: what it holds, charged to whom, and how large it is.

Knows parts and memcgs; charges nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kmem_harness.core.limit_text import PAGE
from kmem_harness.replay import fdtable

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.costs.table import Part

__all__ = ["STANDARD_FDS", "Worker"]

STANDARD_FDS = 5
"""Descriptors a worker has before it makes any."""


class Worker:
    """The helper process that makes objects, and all it holds.

    :param pid: its process number; ``memcg`` is where it lives now.
    """

    def __init__(self, pid: int, memcg: Memcg) -> None:
        self.pid = pid
        self.memcg = memcg
        self.alive = True
        self.stuck = False
        self.oom_victim = False
        self.nr_fds = STANDARD_FDS
        self.table_size = fdtable.EMBEDDED
        self.table: list[tuple[Memcg, Part]] = []
        self.tables_grown = 0
        self.children: list[tuple[int, str]] = []
        self.held: dict[str, Counter[tuple[Memcg, Part]]] = {}
        self.user: dict[str, Counter[Memcg]] = {}
        self.made: Counter[str] = Counter()
        """Objects made so far by kind: some parts serve several objects."""

    @property
    def badness(self) -> int:
        """Resident pages and page tables, as the OOM killer weighs processes (mm/oom_kill.c)."""
        mapped = "address-space"
        user = self.user.get(mapped, Counter()).total()
        tables = sum(
            part.nbytes * count
            for (_, part), count in self.held.get(mapped, Counter()).items()
            if part.pages
        )
        return (user + tables) // PAGE
