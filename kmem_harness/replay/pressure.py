"""What happens at a memory limit: reclaim, the choice of who is killed, and who has to wait.

Knows workers, caches and the tree's hooks; makes no objects.
Source: mm/oom_kill.c and mm/memcontrol.c (5.10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.core.charging import OomOutcome
from kmem_harness.core.gfp import Situation
from kmem_harness.core.limit_text import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.core.charging import ChargeRequest
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.core.tree import MemcgTree
    from kmem_harness.costs.table import Kind
    from kmem_harness.replay.caches import Caches
    from kmem_harness.replay.worker import Worker

__all__ = ["Pressure"]


class Pressure:
    """The reclaimer and the OOM killer of one machine.

    :param end: lets a worker die.
    """

    def __init__(
        self,
        tree: MemcgTree,
        caches: Caches,
        workers: dict[str, Worker],
        end: Callable[[Worker], None],
    ) -> None:
        tree.oom = self._oom_kill
        tree.reclaimer = self._reclaim
        self._caches = caches
        self._workers = workers
        self._end = end
        self._busy: Worker | None = None
        self._kind: Kind | None = None
        self._evicted_to_stay: int | None = None
        self._waiting: dict[Worker, tuple[Memcg, ...]] = {}
        self.made_now = 0

    def begin(self, worker: Worker, kind: Kind | None) -> None:
        """Note who makes objects now."""
        self._busy, self._kind, self._evicted_to_stay = worker, kind, None

    def end(self) -> None:
        """Nobody makes objects any more."""
        self._busy = None

    def _reclaim(self, culprit: Memcg, request: ChargeRequest, *, swap: bool) -> int:  # noqa: ARG002 - there is no swap device
        """Free cached objects; only what is freed at once counts as progress."""

        def inside(memcg: Memcg) -> bool:
            return memcg.counts_in(culprit)

        if not request.nbytes:
            # A write to a limit or to force_empty, which can write dirty pages back.
            self._caches.shrink(inside)
            return self._caches.drop_pages(inside)
        kind = self._kind
        if kind is None or kind.memory_limit_stretch <= 1:
            self._caches.shrink(inside)
            return 0
        if self._evicted_to_stay is None:
            self._evicted_to_stay = int(self.made_now * kind.memory_limit_stretch)
        if self.made_now >= self._evicted_to_stay:
            return 0
        return self._caches.shrink_at_once(inside, 32 * PAGE)

    def _oom_kill(self, culprit: Memcg, request: ChargeRequest) -> OomOutcome:
        """Kill the largest process of the culprit's subtree; of equals, the one that asks.

        The kill counts where the victim lives (memory.oom_control), not where the limit is. Who
        asks dies when its call ends; anybody else is gone before the retries are used up.
        """
        candidates = [
            worker
            for worker in self._workers.values()
            if worker.alive and not worker.oom_victim and worker.memcg.counts_in(culprit)
        ]
        if not candidates:
            return OomOutcome.FAILED
        victim = max(candidates, key=lambda worker: (worker.badness, worker is self._busy))
        victim.memcg.oom_kills += 1
        victim.oom_victim = True
        if victim is self._busy:
            request.situation |= Situation.OOM_VICTIM
        else:
            self._end(victim)
        return OomOutcome.KILLED

    def wait_for_room(self, worker: Worker) -> None:
        """Keep a worker waiting; where nobody may be killed, the memcgs say so."""
        worker.stuck = True
        at: Memcg | None = worker.memcg
        while at is not None and not at.oom_kill_disable:
            at = at.hierarchical_parent
        marked = () if at is None or at.memory.margin >= PAGE else tuple(at.subtree())
        for memcg in marked:
            memcg.under_oom += 1
        self._waiting[worker] = marked

    def leave(self, worker: Worker) -> None:
        """Let a worker wait no longer: there is room again, or it died."""
        worker.stuck = False
        for memcg in self._waiting.pop(worker, ()):
            memcg.under_oom -= 1
