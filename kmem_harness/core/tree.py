"""The tree of memcgs: directories, tasks, the global switch, and the hooks of an emulation.

Knows paths and who lives where; the rules of a memcg are its own, the control files' are in
``files``. Every refusal is an ``OSError`` with the errno a cgroupfs gives.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from kmem_harness.core import directories, files
from kmem_harness.core.charging import ChargeRequest, OomOutcome
from kmem_harness.core.deferred import Deferred
from kmem_harness.core.errors import kernel_error
from kmem_harness.core.memcg import Memcg
from kmem_harness.core.objects import ObjectStock
from kmem_harness.core.stock import BATCH, Stock
from kmem_harness.core.tasks import TaskTable

if TYPE_CHECKING:
    from kmem_harness.core.counter import Refusal
    from kmem_harness.core.profiles import KernelProfile

__all__ = ["MemcgTree", "OomHook", "ReclaimHook"]


class ReclaimHook(Protocol):
    """A source of reclaimable pages (K45)."""

    def __call__(self, culprit: Memcg, request: ChargeRequest, *, swap: bool) -> int:
        """Uncharge what can be freed in the culprit's subtree and return the bytes freed.

        It may change ``request.situation``: a signal can arrive while the task reclaims.
        """


class OomHook(Protocol):
    """Chooses and kills a victim (K46)."""

    def __call__(self, culprit: Memcg, request: ChargeRequest) -> OomOutcome:
        """Kill somebody in the culprit's subtree, or say why not."""


class MemcgTree:
    """All memcgs of one emulated kernel.

    :param stock: charge user counters in batches per CPU as a kernel does; off means exact (K56).
    :param use_hierarchy: what the root starts with; kernels start with ``False`` (K75).
    :param swap_accounting: keep memsw counters.
    :param nr_cpus: how many stocks there are; ``cpu`` says which one charges now.
    :param leak_corner: reproduce the leak of K82 instead of the intended design.
    :param deferred: where put-off work goes; by default it runs at once.
    :param group_nbytes: what making a directory charges to its parent memcg (5.10).
    """

    __slots__ = (
        "charging",
        "cpu",
        "deferred",
        "exact",
        "group_nbytes",
        "leak_corner",
        "object_stock",
        "oom",
        "profile",
        "reclaimer",
        "release_agent",
        "root",
        "stock",
        "stocks",
        "swap_accounting",
        "switch_count",
        "tasks",
    )

    def __init__(
        self,
        profile: KernelProfile,
        *,
        stock: bool = True,
        use_hierarchy: bool = False,
        swap_accounting: bool = False,
        nr_cpus: int = 1,
        leak_corner: bool = False,
        deferred: Deferred | None = None,
        group_nbytes: int = 0,
    ) -> None:
        self.profile = profile
        self.charging = profile.charging
        self.stock = stock
        self.swap_accounting = swap_accounting
        self.exact = not stock and not swap_accounting
        self.leak_corner = leak_corner
        self.deferred = deferred or Deferred()
        self.group_nbytes = group_nbytes
        self.switch_count = 0
        self.release_agent = ""
        self.cpu = 0
        self.stocks = tuple(Stock() for _ in range(nr_cpus))
        self.object_stock = ObjectStock()
        self.reclaimer: ReclaimHook | None = None
        self.oom: OomHook | None = None
        self.tasks = TaskTable()
        self.root = Memcg(self, "", None)
        self.root.use_hierarchy = use_hierarchy

    # Directories ----------------------------------------------------------------------------

    def find(self, path: str) -> Memcg:
        """Find the memcg at *path*.

        Raises: OSError ENOENT, ENOTDIR.
        """
        return directories.find(self, path)

    def make(self, path: str) -> Memcg:
        """Make a directory, and with it a memcg that inherits as K70 and K75 say.

        Raises: OSError EEXIST, ENOENT, ENOTDIR, EINVAL, ENAMETOOLONG, ENOMEM.
        """
        return directories.make(self, path)

    def remove(self, path: str) -> None:
        """Remove an empty directory (K78).

        Raises: OSError EBUSY, ENOENT, ENOTDIR.
        """
        directories.remove(self, path)

    def rename(self, path: str, new_path: str) -> None:
        """Give a directory another name in the same parent.

        Raises: OSError ENOENT, ENOTDIR, EEXIST, EINVAL, EIO.
        """
        directories.rename(self, path, new_path)

    # Control files --------------------------------------------------------------------------

    def read(self, path: str, file: str) -> str:
        """Read a control file; the text ends with a newline unless it is empty (K25).

        Raises: OSError ENOENT, EINVAL, EIO, EOPNOTSUPP.
        """
        return files.find_file(self.find(path), file).read()

    def write(self, path: str, file: str, text: str) -> None:
        """Write *text* to a control file in one write call (K16).

        Raises: OSError EINVAL, EBUSY, E2BIG, ENOENT, ESRCH and others by file.
        """
        files.find_file(self.find(path), file).write(text)

    def ls(self, path: str) -> list[str]:
        """List a directory as a cgroupfs does: control files and child directories, sorted."""
        memcg = self.find(path)
        return sorted([*files.names(memcg), *memcg.children])

    def open(self, path: str, file: str) -> files.OpenFile:
        """Open a control file; reads and writes after the memcg's removal are ENODEV (K29)."""
        return files.find_file(self.find(path), file)

    # Tasks ----------------------------------------------------------------------------------

    def attach(self, pid: int, path: str) -> None:
        """Move a whole process; its charges stay where they are (K83).

        Raises: OSError ESRCH, EINVAL, ENOENT.
        """
        self.tasks.move_process(pid, self.find(path), file="cgroup.procs")

    # What memcgs ask of their tree ----------------------------------------------------------

    @property
    def cpu_stock(self) -> Stock:
        """The stock of the CPU that charges now."""
        return self.stocks[self.cpu]

    def counters_above(self, parent: Memcg | None) -> Memcg | None:
        """Whose counters a new child's counters get as parents (K75)."""
        if parent is None:
            return None
        if parent.use_hierarchy:
            return parent
        return self.root if self.profile.links_to_root else None

    def refill_stock(self, memcg: Memcg, nbytes: int) -> None:
        """Take kernel bytes given back into the stock, as 5.10 does (K54)."""
        self.cpu_stock.refill(memcg, nbytes, most=BATCH)

    def drain_stocks(self, top: Memcg) -> None:
        """Give back stocks held for *top*'s subtree: this CPU now, others later (K55)."""
        held = [s for s in self.stocks if s.memcg is not None and s.memcg.counts_in(top)]
        for stock in held:
            if stock is self.cpu_stock:
                stock.drain()
            else:
                self.deferred.put_off("remote-drain", stock.drain)

    def reclaim(self, culprit: Memcg, request: ChargeRequest, *, swap: bool) -> int:
        """Ask the source of reclaimable pages, if there is one."""
        return self.reclaimer(culprit, request, swap=swap) if self.reclaimer else 0

    def oom_kill(self, culprit: Memcg, request: ChargeRequest) -> OomOutcome:
        """Ask the OOM policy, if there is one and the culprit lets it kill."""
        if self.oom is None or culprit.oom_kill_disable:
            return OomOutcome.NOBODY_ASKED
        return self.oom(culprit, request)

    def try_charge_object(self, memcg: Memcg, nbytes: int) -> Refusal | None:
        """Charge one slab object: by the page with change in hand, or exactly without a stock."""
        if self.stock:
            return self.object_stock.try_charge(memcg, nbytes)
        refusal = memcg.try_charge(nbytes)
        if refusal is None and memcg.accounts:
            memcg.object_nbytes += nbytes
        return refusal

    def uncharge_object(self, memcg: Memcg, nbytes: int) -> None:
        """Take back one slab object, from whoever has it since its memcg was removed."""
        owner = memcg.owner_of_objects
        if self.stock:
            self.object_stock.uncharge(owner, nbytes)
        else:
            owner.object_nbytes -= nbytes
            owner.uncharge(nbytes)

    def charge_for_child(self, parent: Memcg, path: str) -> int:
        """Charge *parent* for a child's own structures and return the bytes charged.

        Raises: OSError ENOMEM.
        """
        if not self.group_nbytes or not parent.accounts:
            return 0
        if self.try_charge_object(parent, self.group_nbytes) is not None:
            why = "the parent has no room for the child's structures"
            raise kernel_error(errno.ENOMEM, why, rule="K110", file=path)
        return self.group_nbytes
