"""One memory cgroup: its counters, what it is charged, and its life from mkdir to final free.

Knows its profile's rules through the tree; knows no text and no paths but its own. Groups are
told apart by identity: a new directory with a zombie's name is another memcg (K116).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kmem_harness.core.charging import ChargeRequest
from kmem_harness.core.counter import Refusal, ResourceCounter
from kmem_harness.core.errors import AccountingError, kernel_error
from kmem_harness.core.gfp import GFP_KERNEL, Gfp, Situation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.core.tree import MemcgTree

__all__ = ["Memcg"]

_NORMAL = Situation.NORMAL


class Memcg:
    """A memory cgroup.

    ``accounts`` is the kernel's ACTIVE bit: until it is set nothing is charged (K62).
    ``refs`` counts as K77 lays down; at 0 the memcg is freed, some steps later (K80).
    ``lru_nbytes`` is user memory, ``self_nbytes`` what the parent was charged for this memcg.
    ``offlining_children`` are removed directories that use_hierarchy still sees (K76 in 5.10).
    ``object_nbytes`` is what slab objects are charged, in whole pages; where the profile says so
    they go to the parent with the directory, and ``reparented`` tells so. ``under_oom`` counts
    the tasks that wait for room because nobody may be killed.
    """

    __slots__ = (
        "accounts",
        "chain",
        "children",
        "dead",
        "freed",
        "kmem",
        "lru_nbytes",
        "memory",
        "memsw",
        "name",
        "object_nbytes",
        "offline",
        "offlining_children",
        "oom_kill_disable",
        "oom_kills",
        "parent",
        "refs",
        "reparented",
        "self_nbytes",
        "settings",
        "swappiness",
        "tasks",
        "tcp",
        "tcp_accounts",
        "tree",
        "under_oom",
        "use_hierarchy",
    )

    def __init__(self, tree: MemcgTree, name: str, parent: Memcg | None) -> None:
        self.tree = tree
        self.name = name
        self.parent = parent
        self.children: dict[str, Memcg] = {}
        self.offlining_children = 0
        self.tasks: dict[int, None] = {}
        self.accounts = False
        self.dead = False
        self.offline = False
        self.freed = False
        self.refs = 1
        self.lru_nbytes = 0
        self.self_nbytes = 0
        self.object_nbytes = 0
        self.reparented = False
        self.under_oom = 0
        self.oom_kills = 0
        self.tcp_accounts = False
        self.settings: dict[str, int] | None = None
        self.use_hierarchy: bool = parent.use_hierarchy if parent else False
        self.swappiness: int = parent.swappiness if parent else 60
        self.oom_kill_disable: bool = parent.oom_kill_disable if parent else False
        above = tree.counters_above(parent)
        ceiling = tree.profile.unlimited
        self.kmem: ResourceCounter = ResourceCounter(
            ceiling, above.kmem if above else None, "kmem", self
        )
        self.memory: ResourceCounter = ResourceCounter(
            ceiling, above.memory if above else None, "memory", self
        )
        self.tcp: ResourceCounter = ResourceCounter(
            ceiling, above.tcp if above else None, "tcp", self
        )
        self.memsw: ResourceCounter | None = None
        if tree.swap_accounting:
            self.memsw = ResourceCounter(ceiling, above.memsw if above else None, "memsw", self)

        # What an exact charge walks, in the profile's order; parents never change (K75).
        first, second = self.memory, self.kmem
        if tree.charging.kmem_first:
            first, second = second, first
        chain = above.chain if above is not None else ()
        half = len(chain) // 2
        self.chain: tuple[ResourceCounter, ...] = (first, *chain[:half], second, *chain[half:])

    def __repr__(self) -> str:
        return f"<Memcg {self.path} kmem {self.kmem.usage}>"

    @property
    def path(self) -> str:
        """The path from the root, such as ``"/web.slice/a"``; the root is ``"/"``."""
        if self.parent is None:
            return "/"
        above = self.parent.path
        return f"{above}{self.name}" if above == "/" else f"{above}/{self.name}"

    @property
    def is_root(self) -> bool:
        """Whether this is the tree's root, which is never limited (K66)."""
        return self.parent is None

    @property
    def has_tasks(self) -> bool:
        """Whether any task lives here; exited ones do not count (K65)."""
        return bool(self.tasks)

    @property
    def margin(self) -> int:
        """Bytes the user counters here still admit."""
        if self.memsw is None:
            return self.memory.margin
        return min(self.memory.margin, self.memsw.margin)

    @property
    def hierarchical_parent(self) -> Memcg | None:
        """The memcg whose counters are this one's parents, if any (K75)."""
        above = self.kmem.parent
        return above.memcg if above is not None else None

    @property
    def pinned_parent(self) -> Memcg | None:
        """The memcg that lives at least as long as this one: a reference is held on it (K77).

        Later kernels pin the directory's parent, whether or not charges go there.
        """
        return self.parent if self.tree.profile.offlines_later else self.hierarchical_parent

    def counts_in(self, top: Memcg) -> bool:
        """Whether what is charged here is charged to *top* too, removed memcgs included (K81)."""
        at: Memcg | None = self
        while at is not None:
            if at is top:
                return True
            at = at.hierarchical_parent
        return False

    def setting(self, name: str) -> int:
        """Give what was written to one of the files that only keep a number."""
        return self.settings.get(name, 0) if self.settings else 0

    def set_setting(self, name: str, value: int) -> None:
        """Keep a number for a file; most memcgs never keep one."""
        if self.settings is None:
            self.settings = {}
        self.settings[name] = value

    def subtree(self) -> Iterator[Memcg]:
        """Yield this memcg and, where it is hierarchical, everything below it."""
        yield self
        if self.use_hierarchy:
            for child in self.children.values():
                yield from child.subtree()

    # Charging -------------------------------------------------------------------------------

    def try_charge(
        self, nbytes: int, gfp: Gfp = GFP_KERNEL, situation: Situation = _NORMAL
    ) -> Refusal | None:
        """Charge *nbytes* of kernel memory as the profile's kernel would; ``None`` is allowed.

        A memcg that does not account lets everything pass uncharged (K34): whoever frees later
        must remember whether ``accounts`` was set when the object was made (K37).
        """
        if not self.accounts:
            return None
        tree = self.tree
        if tree.exact and gfp is GFP_KERNEL and situation is _NORMAL:
            # The common case: no stock, no swap, nothing to bypass. This is the walk the slow
            # way begins with, so that doing it again there after a refusal changes nothing.
            chain = self.chain
            for counter in chain:
                after = counter.usage + nbytes
                if after > counter.limit:
                    break
                counter.usage = after
                if after > counter.max_usage:  # noqa: PLR1730 - a call would cost as much again
                    counter.max_usage = after
            else:
                return None
            for charged in chain:
                if charged is counter:
                    break
                charged.usage -= nbytes
        charging = tree.charging
        if charging.passes_uncharged(gfp, situation):
            return None
        return charging.try_charge(ChargeRequest(self, nbytes, gfp, situation))

    def charge_with_room(self, nbytes: int, room: int) -> bool:
        """Charge *nbytes* if each counter then has *room* left; else change nothing."""
        for counter in self.chain:
            if counter.usage + nbytes + room > counter.limit:
                return False
        return self.try_charge(nbytes) is None

    def charge_without_peak(self, nbytes: int, room: int) -> bool:
        """Do the same if no counter reaches a new peak, either; most charges do not.

        For a tree that is exact, and a memcg that accounts.
        """
        chain = self.chain
        for counter in chain:
            after = counter.usage + nbytes
            if after > counter.max_usage or after + room > counter.limit:
                break
            counter.usage = after
        else:
            return True
        for charged in chain:
            if charged is counter:
                break
            charged.usage -= nbytes
        return False

    def charge(self, nbytes: int) -> None:
        """Charge past every limit: observed only, or an allocation that must not fail (K7)."""
        if self.accounts:
            self.tree.charging.force(self, nbytes, kmem=True)

    def uncharge(self, nbytes: int) -> None:
        """Give kernel memory back: the user counters first, kmem last (K58).

        Raises: AccountingError if this memcg holds less.
        """
        if nbytes > self.kmem.usage:
            message = (
                f"{self.path}: {nbytes} bytes uncharged, but only {self.kmem.usage} are charged"
            )
            raise AccountingError(message)
        tree = self.tree
        if tree.stock and tree.charging.uncharge_refills:
            self.kmem.uncharge(nbytes)
            tree.refill_stock(self, nbytes)
        else:
            self.uncharge_user_counters(nbytes)
            self.kmem.uncharge(nbytes)
        if not self.kmem.usage:
            self.last_byte_gone()

    def uncharge_user_counters(self, nbytes: int) -> None:
        """Take *nbytes* from memory and memsw, here and above."""
        self.memory.uncharge(nbytes)
        if self.memsw is not None:
            self.memsw.uncharge(nbytes)

    def try_charge_user(
        self, nbytes: int, gfp: Gfp = GFP_KERNEL, situation: Situation = _NORMAL
    ) -> Refusal | None:
        """Charge *nbytes* of user memory: never kmem, and no matter whether kmem accounts."""
        request = ChargeRequest(self, nbytes, gfp, situation)
        refusal = self.tree.charging.charge_user(request)
        if refusal is None:
            self.lru_nbytes += nbytes
        return refusal

    def uncharge_user(self, nbytes: int) -> None:
        """Give user memory back.

        Raises: AccountingError if this memcg holds less.
        """
        if nbytes > self.lru_nbytes:
            message = f"{self.path}: {nbytes} user bytes uncharged of {self.lru_nbytes}"
            raise AccountingError(message)
        self.lru_nbytes -= nbytes
        self.uncharge_user_counters(nbytes)

    # Life cycle -----------------------------------------------------------------------------

    def activate(self) -> None:
        """Start to account, holding one reference and one count on the global switch (K64)."""
        self.refs += 1
        self.tree.switch_count += 1
        self.accounts = True

    def check_removable(self) -> None:
        """Raise the kernel's EBUSY while tasks or children remain (K78)."""
        if self.tasks or self.children:
            why = "it has tasks" if self.tasks else "it has children"
            raise kernel_error(errno.EBUSY, why, rule="K78", file=self.path)

    def go_offline(self) -> None:
        """Leave the directory tree; charges that remain keep this memcg as a zombie (K78-K81)."""
        tree = self.tree
        tree.drain_stocks(self)
        self.offline = True
        if self.lru_nbytes and tree.profile.moves_user_pages:
            self.move_user_pages()
        if tree.profile.reparents_objects:
            self._reparent_objects()
        if self.accounts:
            self.dead = True
            if not self.kmem.usage:
                self.last_byte_gone()
        self.put()

    def move_user_pages(self) -> None:
        """Hand user pages to the hierarchical parent, or to the uncharged root (K78)."""
        above = self.hierarchical_parent
        nbytes, self.lru_nbytes = self.lru_nbytes, 0
        self.memory.uncharge_until(above.memory if above else None, nbytes)
        if self.memsw is not None:
            self.memsw.uncharge_until(above.memsw if above else None, nbytes)
        if above is not None:
            above.lru_nbytes += nbytes

    def _reparent_objects(self) -> None:
        """Hand slab objects to the parent; only directly charged pages keep a zombie (K110)."""
        above = self.hierarchical_parent
        if above is None:
            return
        nbytes, self.object_nbytes = self.object_nbytes, 0
        self.tree.object_stock.hand_over(self, above)
        above.object_nbytes += nbytes
        self.kmem.uncharge_until(above.kmem, nbytes)
        self.memory.uncharge_until(above.memory, nbytes)
        if self.memsw is not None:
            self.memsw.uncharge_until(above.memsw, nbytes)
        self.reparented = True

    @property
    def owner_of_objects(self) -> Memcg:
        """The memcg that slab objects charged here are given back to."""
        at = self
        while at.reparented:
            above = at.hierarchical_parent
            if above is None:  # pragma: no cover - the root is never removed
                break
            at = above
        return at

    def last_byte_gone(self) -> None:
        """Drop, after the last uncharge, the reference that stood for all kernel charges, exactly once (K79)."""
        if self.dead:
            self.dead = False
            self.put()
        if self.tree.leak_corner:
            return
        # K82: the kernel looks only at the counter the uncharge began at, and leaks a removed
        # parent that a zombie child empties. The intended design looks above as well.
        above = self.hierarchical_parent
        if above is not None and above.dead and not above.kmem.usage:
            above.last_byte_gone()

    def put(self) -> None:
        """Drop one reference; the last one starts the final free (K80)."""
        self.refs -= 1
        if self.refs:
            return
        above = self.pinned_parent
        if above is not None:
            above.put()
        if self.parent is not None and self.tree.profile.offlines_later:
            self.parent.offlining_children -= 1
        self.tree.deferred.put_off("rcu", self._after_rcu)

    def _after_rcu(self) -> None:
        self.tree.deferred.put_off("free-worker", self._free)

    def _free(self) -> None:
        self.freed = True
        if self.accounts:
            self.tree.switch_count -= 1
        if self.self_nbytes and self.parent is not None:
            self.tree.uncharge_object(self.parent, self.self_nbytes)
