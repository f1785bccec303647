"""Make one object for a worker: charge its parts in order, and keep or undo them.

Knows kinds, descriptors and page faults that cannot be served; knows no traces and no limits.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kmem_harness.core.limit_text import PAGE
from kmem_harness.costs.table import STUCK, Part
from kmem_harness.replay import fdtable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.core.memcg import Memcg
    from kmem_harness.costs.table import Kind
    from kmem_harness.replay.books import Books
    from kmem_harness.replay.caches import Caches
    from kmem_harness.replay.clock import Clock
    from kmem_harness.replay.pressure import Pressure
    from kmem_harness.replay.worker import Worker
    from kmem_harness.replay.workloads import Workload

__all__ = ["OK", "Maker"]

OK = "ok"
# Beyond the recorded machine's nr_open: cliff-fdtable-dup2 goes no further, at any limit.
_LARGEST_TABLE = 13


class Maker:
    """Makes the objects of one machine.

    :param add_task: takes a new child of a worker in, by what it is.
    :param stuck_failcnt: how often a fault that is retried for ever fails until it is looked at.
    """

    def __init__(
        self,
        clock: Clock,
        books: Books,
        caches: Caches,
        pressure: Pressure,
        add_task: Callable[[Worker, str], None],
        stuck_failcnt: int,
        *,
        has_tables: bool,
    ) -> None:
        self._clock = clock
        self._books = books
        self._caches = caches
        self._pressure = pressure
        self._add_task = add_task
        self._stuck_failcnt = stuck_failcnt
        self._has_tables = has_tables
        self._part_of_page: Counter[Memcg] = Counter()
        self.ties: frozenset[str] = frozenset()

    def make(self, worker: Worker, workload: Workload, kind: Kind | None) -> str:
        """Make one object; say "ok", or what the call fails with.

        ``ties`` is then what else it might have failed with: which part of an object meets a
        limit follows from the change of a page in hand, and that from which CPU ran when. Where
        nothing is charged yet there is no change, and the first part is the one refused.
        """
        if workload.grows_table and worker.tables_grown >= _LARGEST_TABLE:
            return "EBADF"
        if kind is None:
            return OK
        if workload.churns and not self._clock.held:
            self._await_grace(worker.memcg, kind)
        charged: list[Part] = []
        in_hand = worker.memcg.kmem.usage > 0
        failed = self._charge_parts(worker, kind, charged)
        if failed == STUCK:
            self.ties = frozenset(part.errno_name for part in kind.parts)
            self._get_stuck(worker, workload, kind, charged)
            return STUCK
        fits = failed is None and self._fits_for_a_moment(worker.memcg, kind)
        if failed is None and fits and self._take_fds(worker, workload):
            return self._settle_in(worker, workload, kind, charged)
        self._books.undo(worker.memcg, charged, at_once=workload.tasks is not None)
        failed = failed or "ENOMEM"
        errnos = {part.errno_name for part in kind.parts if in_hand} | {failed}
        self.ties = frozenset(workload.errnos.get(each, each) for each in errnos)
        return workload.errnos.get(failed, failed)

    def _charge_parts(self, worker: Worker, kind: Kind, charged: list[Part]) -> str | None:
        """Charge an object's parts in the kernel's order; name the errno of one refused."""
        memcg = worker.memcg
        for part in kind.parts:
            if worker.made[kind.name] % part.every:
                continue
            if not self._books.charge(memcg, part):
                return part.errno_name
            if memcg.accounts:
                # What was made before the memcg accounts is never uncharged (K37).
                charged.append(part)
        return None

    def _settle_in(
        self, worker: Worker, workload: Workload, kind: Kind, charged: list[Part]
    ) -> str:
        """Charge the user pages an object comes with, and keep it."""
        user_nbytes, complete = self._charge_user(worker.memcg, kind)
        self._keep(worker, workload, kind, charged, user_nbytes)
        if not complete:
            # The fault is retried for ever, unless the task was chosen to die.
            self._pressure.wait_for_room(worker)
            return STUCK
        worker.made[kind.name] += 1
        return OK

    def _charge_user(self, memcg: Memcg, kind: Kind) -> tuple[int, bool]:
        """Charge the user pages that come with an object; parts of a page wait for the next.

        Shape: the bytes charged, and whether that is all of them.
        """
        self._part_of_page[memcg] += kind.user_nbytes
        nbytes = self._part_of_page[memcg] // PAGE * PAGE
        self._part_of_page[memcg] -= nbytes
        for done in range(0, nbytes, PAGE):
            if memcg.try_charge_user(PAGE) is not None:
                return done, False
        return nbytes, True

    def _keep(
        self, worker: Worker, workload: Workload, kind: Kind, charged: list[Part], user_nbytes: int
    ) -> None:
        memcg = worker.memcg
        if workload.churns:
            memcg.uncharge_user(user_nbytes)
            self._books.undo(memcg, charged)
            return
        if workload.tasks is not None:
            self._add_task(worker, workload.tasks)
        if kind.held_by == "nothing":
            self._caches.keep_pages(memcg, user_nbytes)
        else:
            worker.user.setdefault(kind.held_by, Counter())[memcg] += user_nbytes
        held = worker.held.setdefault(kind.held_by, Counter())
        entered_by = worker.pid if workload.enters else None
        for part in charged:
            if part.freed == "early":
                self._books.put_off_release(Counter({(memcg, part): 1}))
            elif part.freed == "cache":
                self._caches.keep(memcg, part, entered_by=entered_by)
            elif part.freed == "fs":
                self._caches.keep_in_tmpfs(memcg, part, entered_by=entered_by)
            elif part.freed != "kept":
                held[memcg, part] += 1

    def _get_stuck(
        self, worker: Worker, workload: Workload, kind: Kind, charged: list[Part]
    ) -> None:
        """Keep what the faulting task has; its fault is retried, and refused, for ever."""
        memcg = worker.memcg
        refusal = memcg.try_charge(PAGE)
        if refusal is None and memcg.accounts:
            memcg.uncharge(PAGE)
        elif refusal is not None and refusal.counter.name == "kmem":
            refusal.counter.failcnt += self._stuck_failcnt
        user_nbytes, _ = self._charge_user(memcg, kind)
        self._keep(worker, workload, kind, charged, user_nbytes)
        self._pressure.wait_for_room(worker)

    def _await_grace(self, memcg: Memcg, kind: Kind) -> None:
        """Let a churn's backlog go before it fills a limit, as on a machine that is not too busy."""
        at: Memcg | None = memcg
        while at is not None:
            if at.kmem.margin < kind.peak_nbytes + 2 * PAGE:
                self._clock.settle()
                return
            at = at.hierarchical_parent

    def _fits_for_a_moment(self, memcg: Memcg, kind: Kind) -> bool:
        """Charge, and give back, what an object takes only while it is made."""
        extra = kind.peak_nbytes - kind.nbytes
        if extra <= 0:
            return True
        part = Part("for a moment", -(-extra // PAGE) * PAGE, "ENOMEM", pages=True, freed="now")
        if not self._books.charge(memcg, part):
            return False
        self._books.uncharge(memcg, part, 1)
        return True

    # Descriptors ----------------------------------------------------------------------------

    def _take_fds(self, worker: Worker, workload: Workload) -> bool:
        """Take the object's descriptors, growing the table first if it is full."""
        if workload.grows_table:
            wanted = 256 << worker.tables_grown
        elif workload.fds:
            wanted = worker.nr_fds + workload.fds
        else:
            return True
        if wanted > worker.table_size and not self._grow_table(worker, wanted):
            return False
        worker.tables_grown += workload.grows_table
        worker.nr_fds += workload.fds
        return True

    def _grow_table(self, worker: Worker, wanted: int) -> bool:
        if not self._has_tables:
            return True
        memcg = worker.memcg
        size = fdtable.table_size_for(wanted - 1)
        blocks = self._books.new_table(memcg, size)
        if blocks is None:
            return False
        old, worker.table = worker.table, []
        if memcg.accounts:
            worker.table = [(memcg, part) for part in blocks]
        worker.table_size = size
        self._books.put_off_release(Counter(old))
        return True
