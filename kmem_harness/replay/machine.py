"""The replayed machine: workers that make and free kernel objects, file systems, and time.

Knows kinds and memcgs; knows nothing of traces. Every allocation is charged when it is made and
remembered with the memcg it was charged to (K115); what a grace period delays waits on a clock.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING

from kmem_harness.core.errors import kernel_error
from kmem_harness.core.limit_text import PAGE
from kmem_harness.core.tree import MemcgTree
from kmem_harness.costs.table import STUCK, CostTable, Kind, Part
from kmem_harness.replay.books import Books
from kmem_harness.replay.caches import Caches
from kmem_harness.replay.clock import Clock
from kmem_harness.replay.maker import OK, Maker
from kmem_harness.replay.pressure import Pressure
from kmem_harness.replay.worker import STANDARD_FDS, Worker
from kmem_harness.replay.workloads import Workload, workload_named

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.core.profiles import KernelProfile

__all__ = ["DEAD", "KILLED", "OK", "Machine", "Worker"]

KILLED = "WORKER_KILLED"
DEAD = "DEAD"
_INIT, _KTHREADD, _RECORDER = 1, 2, 999
_FIRST_PID = 1000
_RELEASED_BY_FREE = ("descriptor", "child")
_MOVE_CHARGE, _MOVES_ANONYMOUS = "memory.move_charge_at_immigrate", 1
_STUCK_US = 5_000_000
# force_empty tries 16 times, a tenth of a second apart, while anything is charged (K84).
_FORCE_EMPTY_US = 1_600_000


class Machine:
    """One emulated machine, from boot."""

    def __init__(self, profile: KernelProfile, costs: CostTable) -> None:
        constants = costs.constants
        group = costs.kinds.get("group")
        self.costs = costs
        self.clock = Clock(constants.get("rcu_grace_us", 50_000))
        self.tree = MemcgTree(
            profile,
            swap_accounting=profile.charging.memsw_first,
            deferred=self.clock,
            group_nbytes=group.nbytes if group else 0,
        )
        self.tree.root.kmem.max_usage = constants.get("root_kmem_max_usage", 0)
        self.tree.tasks.add(_INIT, self.tree.root)
        self.tree.tasks.add(_KTHREADD, self.tree.root, kernel_thread=True)
        self.tree.tasks.add(_RECORDER, self.tree.root)
        self.tree.tasks.writer = _RECORDER
        self.workers: dict[str, Worker] = {}
        self.ties: frozenset[str] = frozenset()
        self._books = Books(self.tree, self.clock)
        self._caches = Caches(self._books)
        self._pressure = Pressure(self.tree, self._caches, self.workers, self._end)
        self._maker = Maker(
            self.clock,
            self._books,
            self._caches,
            self._pressure,
            self._add_task,
            constants.get("stuck_failcnt", 0),
            has_tables="descriptor" in costs.kinds,
        )
        self._next_pid = _FIRST_PID

    # Time and file systems ------------------------------------------------------------------

    def tick(self) -> None:
        """Let the time of one step pass."""
        self.clock.advance(self.costs.constants.get("step_us", 4_000))

    def hold_grace_periods(self, *, held: bool) -> None:
        """Let no grace period end while a workload runs, as on a machine too busy for it."""
        self.clock.held = held

    def drop_caches(self) -> None:
        """Free every dentry and inode that is only cached; pages stay, as for ``echo 2``."""
        self._caches.shrink(lambda _: True)
        self.clock.settle()

    def wait_for_force_empty(self, memcg: Memcg) -> None:
        """Let the time pass that force_empty takes while anything remains charged."""
        if memcg.memory.usage:
            self.clock.advance(_FORCE_EMPTY_US)

    def mount(self) -> None:
        """Mount a new, empty tmpfs."""
        self._caches.mount()

    def unmount(self) -> None:
        """Unmount the tmpfs and free what lives in it."""
        self._caches.unmount()
        self.clock.settle()

    # Workers --------------------------------------------------------------------------------

    def spawn(self, name: str, path: str) -> None:
        """Start a worker in the root and move it to *path*.

        Raises: OSError if it cannot be moved; the worker lives on in the root.
        """
        worker = Worker(self._new_pid(), self.tree.root)
        self.workers[name] = worker
        self.tree.tasks.add(worker.pid, self.tree.root)
        self.move(name, path)

    def move(self, name: str, path: str) -> None:
        """Move a worker to another memcg; its kernel charges stay (K83).

        Raises: OSError.
        """
        worker = self.workers[name]
        memcg = self.tree.find(path)
        if worker.alive and memcg is not worker.memcg:
            self._move_user_pages(worker, memcg)
        self.tree.attach(worker.pid, path)
        worker.memcg = memcg

    def _move_user_pages(self, worker: Worker, to: Memcg) -> None:
        """Move a worker's anonymous pages along if the new memcg asks for them."""
        if not to.setting(_MOVE_CHARGE) & _MOVES_ANONYMOUS:
            return
        pages = worker.user.get("address-space", Counter())
        nbytes = pages.pop(worker.memcg, 0)
        if not nbytes:
            return
        if to.try_charge_user(nbytes) is not None:
            pages[worker.memcg] = nbytes
            why = "no room for the pages that would move along"
            raise kernel_error(errno.ENOMEM, why, rule="K83", file="cgroup.procs")
        worker.memcg.uncharge_user(nbytes)
        pages[to] += nbytes

    def free(self, name: str) -> str:
        """Let a worker close its descriptors, and kill and reap its children."""
        worker = self.workers[name]
        if not worker.alive:
            return DEAD
        if self._is_stuck(worker):
            return STUCK
        self._reap(worker)
        for held_by in _RELEASED_BY_FREE:
            self._release_held(worker, held_by)
        worker.nr_fds = STANDARD_FDS
        self.clock.settle()
        return OK

    def kill(self, name: str) -> None:
        """Kill and reap a worker and its children."""
        worker = self.workers[name]
        if worker.alive:
            self._end(worker)
        self._reap(worker)
        self._release_held(worker, "child")
        self.clock.settle()

    def _end(self, worker: Worker) -> None:
        """Let a worker die; its children live on."""
        worker.alive = False
        self._pressure.leave(worker)
        for pid, what in worker.children:
            if what == "thread":
                self.tree.tasks.exit(pid)
        for held_by in tuple(worker.held.keys() | worker.user.keys()):
            if held_by != "child":
                self._release_held(worker, held_by)
        self._books.put_off_release(Counter(worker.table))
        worker.table = []
        self._caches.leave(worker.pid)
        self.tree.tasks.exit(worker.pid)

    def _reap(self, worker: Worker) -> None:
        """Kill and reap a worker's children; threads live as long as the worker."""
        for pid, what in worker.children:
            if what != "thread":
                self.tree.tasks.exit(pid)
        worker.children = [child for child in worker.children if child[1] == "thread"]

    def _add_task(self, worker: Worker, what: str) -> None:
        pid = self._new_pid()
        if what == "thread":
            self.tree.tasks.add_thread(worker.pid, pid)
        elif what == "process":
            self.tree.tasks.add(pid, worker.memcg)
        worker.children.append((pid, what))

    def _new_pid(self) -> int:
        self._next_pid += 1
        return self._next_pid

    # Making objects -------------------------------------------------------------------------

    def do(self, name: str, workload_name: str, count: int) -> tuple[int, str]:
        """Let a worker make up to *count* objects; return how many, and how it ended.

        ``ties`` says afterwards how else it might have ended.
        """
        self.ties = frozenset()
        worker = self.workers[name]
        if not worker.alive:
            return 0, DEAD
        if self._is_stuck(worker):
            return 0, STUCK
        workload = workload_named(workload_name)
        if workload is None:
            message = f"unknown workload {workload_name!r}"
            raise ValueError(message)
        kind = self._kind_of(workload)
        self._pressure.begin(worker, kind)
        made, result = 0, OK
        while made < count and result == OK:
            self._pressure.made_now = made
            result = self._maker.make(worker, workload, kind)
            if worker.oom_victim:
                result = KILLED
            made += result == OK
            if kind is not None:
                self.clock.advance(kind.time_us)
        self._pressure.end()
        if result == OK and kind is not None and any(part.freed == "early" for part in kind.parts):
            # What was closed in the loop waits for the loop's end, and not for long then.
            self.clock.settle()
        self.ties = self._maker.ties if result not in {OK, KILLED} else frozenset({result})
        if result == KILLED:
            self._end(worker)
            self.clock.settle()
        elif result == STUCK:
            self.clock.advance(_STUCK_US)
        return made, result

    def _kind_of(self, workload: Workload) -> Kind | None:
        """Find what an object costs; older kernels' tables price all processes alike (K89)."""
        kinds = self.costs.kinds
        known = kinds.get(workload.kind)
        if known is None and workload.tasks is not None:
            return kinds.get("thread" if workload.tasks == "thread" else "task")
        return known

    def _is_stuck(self, worker: Worker) -> bool:
        """Whether a worker's page fault still cannot be served."""
        if not worker.stuck:
            return False
        memcg = worker.memcg
        if memcg.try_charge(PAGE) is not None:
            self.clock.advance(_STUCK_US)
            return True
        if memcg.accounts:
            memcg.uncharge(PAGE)
        self._pressure.leave(worker)
        return False

    def _release_held(self, worker: Worker, held_by: str) -> None:
        for memcg, nbytes in worker.user.pop(held_by, Counter()).items():
            memcg.uncharge_user(nbytes)
        late = Counter[tuple["Memcg", Part]]()
        for (memcg, part), count in worker.held.pop(held_by, Counter()).items():
            if part.freed == "rcu":
                late[memcg, part] = count
            else:
                self._books.uncharge(memcg, part, count)
        self._books.put_off_release(late)
