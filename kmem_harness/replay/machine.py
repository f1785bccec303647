"""The replayed machine: workers that make and free kernel objects, file systems, and time.

Knows kinds and memcgs; knows nothing of traces. Every allocation is charged when it is made and
remembered with the memcg it was charged to (K115); what a grace period delays waits on a clock.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kmem_harness.core.charging import ChargeRequest, OomOutcome
from kmem_harness.core.limit_text import PAGE
from kmem_harness.core.tree import MemcgTree
from kmem_harness.costs.table import STUCK, CostTable, Kind, Part
from kmem_harness.replay import fdtable
from kmem_harness.replay.books import Books
from kmem_harness.replay.clock import Clock
from kmem_harness.replay.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.core.profiles import KernelProfile

__all__ = ["DEAD", "KILLED", "Machine", "Worker"]

KILLED = "WORKER_KILLED"
DEAD = "DEAD"
OK = "ok"
_STANDARD_FDS = 5
# Beyond the recorded machine's nr_open: cliff-fdtable-dup2 goes no further, at any limit.
_LARGEST_TABLE = 13
_INIT, _KTHREADD, _RECORDER = 1, 2, 999
_FIRST_PID = 1000
_RELEASED_BY_FREE = ("descriptor", "child")


class Worker:
    """The helper process that makes objects, and all it holds."""

    def __init__(self, pid: int, memcg: Memcg) -> None:
        self.pid = pid
        self.memcg = memcg
        self.alive = True
        self.nr_fds = _STANDARD_FDS
        self.table_size = fdtable.EMBEDDED
        self.table: list[tuple[Memcg, Part]] = []
        self.tables_grown = 0
        self.children: list[tuple[int, str]] = []
        self.held: dict[str, Counter[tuple[Memcg, Part]]] = {}
        self.user: dict[str, Counter[Memcg]] = {}


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
        self.tree.oom = self._oom_kill
        self.tree.reclaimer = self._reclaim
        self.tree.tasks.add(_INIT, self.tree.root)
        self.tree.tasks.add(_KTHREADD, self.tree.root, kernel_thread=True)
        self.tree.tasks.add(_RECORDER, self.tree.root)
        self.tree.tasks.writer = _RECORDER
        self._books = Books(self.tree, self.clock)
        self.workers: dict[str, Worker] = {}
        self._next_pid = _FIRST_PID
        self._busy: Worker | None = None
        self._busy_kind: Kind | None = None
        self._oom_asked = False
        self._evicted_to_stay: int | None = None
        self._made_now = 0
        self._cached: Counter[tuple[Memcg, Part]] = Counter()
        self._cached_user: Counter[Memcg] = Counter()
        self._part_of_page: Counter[Memcg] = Counter()
        self._filesystem: Counter[tuple[Memcg, Part]] = Counter()

    # Time and file systems ------------------------------------------------------------------

    def tick(self) -> None:
        """Let the time of one step pass."""
        self.clock.advance(self.costs.constants.get("step_us", 4_000))

    def hold_grace_periods(self) -> None:
        """Let no grace period end while a workload runs, as on a machine too busy for it."""
        self.clock.held = True

    def drop_caches(self) -> None:
        """Free everything that is only cached."""
        self._evict(self.tree.root, None)
        self.clock.settle()

    def unmount(self) -> None:
        """Free what lives in the tmpfs."""
        self._books.put_off_release(self._filesystem)
        self._filesystem = Counter()
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
        """Move a worker to another memcg; its charges stay (K83).

        Raises: OSError.
        """
        worker = self.workers[name]
        memcg = self.tree.find(path)
        self.tree.attach(worker.pid, path)
        worker.memcg = memcg

    def free(self, name: str) -> str:
        """Let a worker close its descriptors, and kill and reap its children."""
        worker = self.workers[name]
        if not worker.alive:
            return DEAD
        self._reap(worker)
        for held_by in _RELEASED_BY_FREE:
            self._release_held(worker, held_by)
        worker.nr_fds = _STANDARD_FDS
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
        for pid, what in worker.children:
            if what == "thread":
                self.tree.tasks.exit(pid)
        for held_by in tuple(worker.held.keys() | worker.user.keys()):
            if held_by != "child":
                self._release_held(worker, held_by)
        self._books.put_off_release(Counter(worker.table))
        worker.table = []
        self.tree.tasks.exit(worker.pid)

    def _reap(self, worker: Worker) -> None:
        for pid, _ in worker.children:
            self.tree.tasks.exit(pid)
        worker.children = []

    def _new_pid(self) -> int:
        self._next_pid += 1
        return self._next_pid

    # Making objects -------------------------------------------------------------------------

    def do(self, name: str, workload_name: str, count: int) -> tuple[int, str]:
        """Let a worker make up to *count* objects; return how many, and how it ended."""
        worker = self.workers[name]
        if not worker.alive:
            return 0, DEAD
        workload = WORKLOADS[workload_name]
        kind = self.costs.kinds.get(workload.kind)
        self._busy, self._busy_kind, self._oom_asked = worker, kind, False
        self._evicted_to_stay = None
        made, result = 0, OK
        while made < count and result == OK:
            self._made_now = made
            if workload.grows_table and worker.tables_grown >= _LARGEST_TABLE:
                result = "EBADF"
                break
            result = self._make_one(worker, workload, kind)
            if not worker.alive:
                result = KILLED
            made += result == OK
            if kind is not None:
                self.clock.advance(kind.time_us)
        self._busy = None
        if result == KILLED:
            self.clock.settle()
        return made, result

    def _make_one(self, worker: Worker, workload: Workload, kind: Kind | None) -> str:
        if kind is None:
            return OK
        memcg = worker.memcg
        charged: list[Part] = []
        for part in kind.parts:
            if not self._books.charge(memcg, part):
                if part.errno_name == STUCK:
                    return self._get_stuck(worker, workload, kind, charged)
                self._books.undo(memcg, charged, at_once=workload.tasks is not None)
                return workload.errnos.get(part.errno_name, part.errno_name)
            if memcg.accounts:
                # What was made before the memcg accounts is never uncharged (K37).
                charged.append(part)
        if not self._fits_for_a_moment(memcg, kind) or not self._take_fds(worker, workload):
            self._books.undo(memcg, charged, at_once=workload.tasks is not None)
            return workload.errnos.get("ENOMEM", "ENOMEM")
        user_nbytes = self._charge_user(memcg, kind)
        if not worker.alive:
            self._books.undo(memcg, charged)
            memcg.uncharge_user(user_nbytes or 0)
            self._books.put_off_release(Counter(worker.table))
            worker.table = []
            return KILLED
        self._keep(worker, workload, kind, charged, user_nbytes or 0)
        return STUCK if user_nbytes is None else OK

    def _charge_user(self, memcg: Memcg, kind: Kind) -> int | None:
        """Charge the user pages that come with an object; parts of a page wait for the next.

        ``None``: refused, so that the fault is retried for ever.
        """
        self._part_of_page[memcg] += kind.user_nbytes
        nbytes = self._part_of_page[memcg] // PAGE * PAGE
        self._part_of_page[memcg] -= nbytes
        if nbytes and memcg.try_charge_user(nbytes) is not None:
            return None
        return nbytes

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
            self._cached_user[memcg] += user_nbytes
        else:
            worker.user.setdefault(kind.held_by, Counter())[memcg] += user_nbytes
        held = worker.held.setdefault(kind.held_by, Counter())
        for part in charged:
            if part.freed == "early":
                self._books.put_off_release(Counter({(memcg, part): 1}))
            elif part.freed == "cache":
                self._cached[memcg, part] += 1
            elif part.freed == "fs":
                self._filesystem[memcg, part] += 1
            elif part.freed != "kept":
                held[memcg, part] += 1

    def _add_task(self, worker: Worker, what: str) -> None:
        pid = self._new_pid()
        if what == "thread":
            self.tree.tasks.add_thread(worker.pid, pid)
        else:
            self.tree.tasks.add(pid, worker.memcg)
        worker.children.append((pid, what))

    def _get_stuck(
        self, worker: Worker, workload: Workload, kind: Kind, charged: list[Part]
    ) -> str:
        """Keep what the faulting task has; its fault is retried, and refused, for ever."""
        memcg = worker.memcg
        refusal = memcg.try_charge(PAGE)
        if refusal is not None:
            refusal.counter.failcnt += self.costs.constants.get("stuck_failcnt", 0)
        elif memcg.accounts:
            memcg.uncharge(PAGE)
        self._keep(worker, workload, kind, charged, self._charge_user(memcg, kind) or 0)
        return STUCK

    def _fits_for_a_moment(self, memcg: Memcg, kind: Kind) -> bool:
        extra = kind.peak_nbytes - kind.nbytes
        if extra <= 0:
            return True
        if self.tree.try_charge_object(memcg, extra) is not None:
            return False
        if memcg.accounts:
            self.tree.uncharge_object(memcg, extra)
        return True

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
        if "descriptor" not in self.costs.kinds:
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

    # Reclaim and OOM ------------------------------------------------------------------------

    def _evict(self, top: Memcg, most: int | None) -> int:
        """Free cached objects charged in *top*'s subtree, up to *most* bytes; return the bytes."""
        inside = None if top.is_root else set(top.subtree())
        freed = 0
        for memcg, nbytes in list(self._cached_user.items()):
            if inside is None or memcg in inside:
                del self._cached_user[memcg]
                memcg.uncharge_user(nbytes)
                freed += nbytes
        for (memcg, part), count in list(self._cached.items()):
            if inside is not None and memcg not in inside:
                continue
            if most is not None:
                count = min(count, max(0, most - freed) // part.nbytes + 1)  # noqa: PLW2901
            self._cached[memcg, part] -= count
            self._books.uncharge(memcg, part, count)
            freed += count * part.nbytes
        return freed

    def _reclaim(self, culprit: Memcg, request: ChargeRequest, *, swap: bool) -> int:  # noqa: ARG002 - there is no swap device
        if not request.nbytes:
            return self._evict(culprit, None)
        kind = self._busy_kind
        if kind is None or kind.memory_limit_stretch <= 1:
            return 0
        if self._evicted_to_stay is None:
            self._evicted_to_stay = int(self._made_now * kind.memory_limit_stretch)
        if self._made_now >= self._evicted_to_stay:
            return 0
        return self._evict(culprit, 32 * PAGE)

    def _oom_kill(self, culprit: Memcg, request: ChargeRequest) -> OomOutcome:  # noqa: ARG002 - one worker is busy
        """Kill the worker that asks; only the second time does it notice that it is dying.

        The kernel's own failcnt shows it: two full rounds of retries before the charge is forced.
        """
        if self._busy is None:
            return OomOutcome.FAILED
        if not self._oom_asked:
            self._oom_asked = True
            culprit.oom_kills += 1
            return OomOutcome.KILLED
        self._end(self._busy)
        return OomOutcome.FAILED
