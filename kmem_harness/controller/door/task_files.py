"""Show the real tasks of boxes in the memcg tree, for whoever reads ``tasks`` or ``cgroup.procs``.

A box's tasks stay in the memcg it was started in: they are listed, not moved.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.procfs.census import DescendantCensus
from kmem_harness.procfs.steps import result_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.controller.account.box import Box
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.core.tree import MemcgTree

__all__ = ["TASK_FILES", "refuse_move", "show_tasks"]

TASK_FILES = frozenset({"tasks", "cgroup.procs"})


def show_tasks(tree: MemcgTree, memcg: Memcg, boxes: Iterable[Box]) -> None:
    """Bring the tree's list of *memcg*'s tasks up to date, in pids as we number them."""
    for tid in list(memcg.tasks):
        tree.tasks.exit(tid)
    for box in boxes:
        if box.memcg is not memcg or not box.init_pid:
            continue
        # Orphans go to the init of their namespace, so all tasks of a box descend from it.
        inside = result_of(DescendantCensus(box.init_pid, frozenset()).processes())
        for pid in sorted(inside, key=int):
            tree.tasks.add(int(pid), memcg)
            with suppress(OSError):  # it died since
                for thread in os.listdir(f"/proc/{pid}/task"):
                    if thread != pid:
                        tree.tasks.add_thread(int(pid), int(thread))


def refuse_move(memcg: Memcg, file: str, value: str) -> OSError:
    """Say why a live task cannot be written to a memcg."""
    return OSError(
        errno.EOPNOTSUPP,
        f"{memcg.path}/{file}: {value!r}: the tasks of a box stay in the memcg it was started in; "
        "start another box there",
    )
