"""How a kernel charges a memcg: the order of counters, retries, reclaim, bypass and OOM.

Two families: :class:`ResCounterCharging` up to 3.13 (K38-K49) and :class:`PageCounterCharging`
of 5.10 (K110). A profile holds one of them, configured with data. Knows no files and no tree.
Source: mm/memcontrol.c __mem_cgroup_try_charge (3.8) and try_charge (5.10).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from kmem_harness.core.gfp import Gfp, Situation
from kmem_harness.core.limit_text import PAGE
from kmem_harness.core.stock import BATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.core.counter import Refusal
    from kmem_harness.core.memcg import Memcg

__all__ = [
    "ChargeRequest",
    "Charging",
    "OomOutcome",
    "PageCounterCharging",
    "ResCounterCharging",
]

COSTLY = 8 * PAGE
RECLAIM_ROUNDS = 100
_DYING = Situation.FATAL_SIGNAL | Situation.OOM_VICTIM


class OomOutcome(Enum):
    """What came of asking for an OOM kill.

    ``KILLED``: somebody is dying, try again. ``FAILED``: nobody could be killed.
    ``NOBODY_ASKED``: the OOM killer is off, or no policy is set; an emulator without tasks of
    its own can only refuse.
    """

    KILLED = "killed"
    FAILED = "failed"
    NOBODY_ASKED = "nobody asked"


class ChargeRequest:
    """One charge on its way; reclaim and OOM hooks may change its *situation* (K117)."""

    __slots__ = ("gfp", "memcg", "nbytes", "situation")

    def __init__(self, memcg: Memcg, nbytes: int, gfp: Gfp, situation: Situation) -> None:
        self.memcg = memcg
        self.nbytes = nbytes
        self.gfp = gfp
        self.situation = situation

    @property
    def dying(self) -> bool:
        """Whether the task is on its way out, so that its charges must not fail (K44)."""
        return bool(self.situation & _DYING)


class _Bypass(Exception):  # noqa: N818 - control flow inside one charge, not an error
    """The bytes must be forced in (K47)."""


class Charging:
    """What the families share; a release's own is a class that says how it is there.

    :param kmem_first: kmem is asked before the user counters (K38) or after them (K39).
    :param memsw_first: memsw is asked before memory, as 5.10 does.
    :param retries: fruitless reclaims before the OOM step.
    :param forced_counts: a forced charge raises failcnt where it passes a limit (K7).
    :param uncharge_refills: a kernel uncharge goes to the stock, not the counters (K54).
    :param nofail_accounts: NOFAIL requests are charged, by force if need be (K32c, K110).
    :param unaccounted: situations in which the gate lets a request pass uncharged (K32).
    """

    kmem_first: bool
    memsw_first: bool
    retries: int
    forced_counts: bool
    uncharge_refills: bool
    nofail_accounts: bool
    unaccounted: Situation

    @property
    def kills_at_memory_limit(self) -> bool:
        """Whether a kernel request that finds no room there has a task killed (K46, K110)."""
        raise NotImplementedError

    @property
    def at_memory_limit(self) -> str:
        """Say for people what a kernel request meets at the memory limit."""
        raise NotImplementedError

    @property
    def when_dying(self) -> str:
        """Say for people what becomes of a dying task's request."""
        raise NotImplementedError

    def passes_uncharged(self, gfp: Gfp, situation: Situation) -> bool:
        """Whether a request is allowed without touching any counter (K32)."""
        if not gfp & Gfp.ACCOUNT or situation & self.unaccounted:
            return True
        return bool(gfp & Gfp.NOFAIL) and not self.nofail_accounts

    def try_charge(self, request: ChargeRequest) -> Refusal | None:
        """Charge all counters of the request's memcg, or none of them (K40, K98)."""
        raise NotImplementedError

    def charge_user(self, request: ChargeRequest) -> Refusal | None:
        """Charge memory (and memsw) alone, as for a user page; never touches kmem."""
        raise NotImplementedError

    def force(self, memcg: Memcg, nbytes: int, *, kmem: bool) -> None:
        """Charge past the limits (K7, K47)."""
        memcg.memory.charge(nbytes, count_failures=self.forced_counts)
        if memcg.memsw is not None:
            memcg.memsw.charge(nbytes, count_failures=self.forced_counts)
        if kmem:
            memcg.kmem.charge(nbytes, count_failures=self.forced_counts)

    def _attempt(self, memcg: Memcg, nbytes: int) -> Refusal | None:
        """Charge memory and memsw once, or neither (K49)."""
        first, second = memcg.memory, memcg.memsw
        if second is None:
            return first.try_charge(nbytes)
        if self.memsw_first:
            first, second = second, first
        refusal = first.try_charge(nbytes)
        if refusal is None:
            refusal = second.try_charge(nbytes)
            if refusal is not None:
                first.uncharge(nbytes)
        return refusal

    def _user_half(
        self, request: ChargeRequest, retry: Callable[..., Refusal | None]
    ) -> Refusal | None:
        """Ask the stock, then a batch, then exactly; hand the last refusal to *retry* (K42)."""
        memcg, nbytes = request.memcg, request.nbytes
        tree = memcg.tree
        batch = max(BATCH, nbytes) if tree.stock else nbytes
        while True:
            self._check_bypass(request)
            if tree.stock and tree.cpu_stock.consume(memcg, nbytes):
                return None
            refusal = self._attempt(memcg, batch)
            if refusal is None:
                if batch > nbytes:
                    tree.cpu_stock.refill(memcg, batch - nbytes)
                return None
            if batch == nbytes:
                return retry(request, refusal)
            # K42.4: this failure of an optional surplus has already raised failcnt.
            batch = nbytes

    def _check_bypass(self, request: ChargeRequest) -> None:
        """Raise _Bypass where this family tests for a dying task before each attempt."""


def _owner(refusal: Refusal) -> Memcg:
    """Find the memcg whose counter refused: reclaim and OOM go there (K5)."""
    memcg = refusal.counter.memcg
    if memcg is None:
        message = "a counter outside any memcg cannot be reclaimed"
        raise TypeError(message)
    return memcg


class ResCounterCharging(Charging):
    """The design of 2012 (K38-K49).

    :param oom_needs: the flags without which a request may not start an OOM kill (K43).
    :param oom_kills: kernel requests start the OOM killer; from 3.12 they fail (K46).
    :param bypass_forces_kmem: a bypass forces kmem in too, as v4 did (K47).
    """

    oom_needs: Gfp
    oom_kills: bool
    bypass_forces_kmem: bool

    @property
    def kills_at_memory_limit(self) -> bool:
        """Whether a kernel request that finds no room there has a task killed."""
        return self.oom_kills

    @property
    def at_memory_limit(self) -> str:
        """Say for people what a kernel request meets at the memory limit."""
        end = "an OOM kill" if self.oom_kills else "ENOMEM"
        return f"reclaim, {self.retries} retries, {end}"

    @property
    def when_dying(self) -> str:
        """Say for people what becomes of a dying task's request."""
        if self.bypass_forces_kmem:
            return "forced past every limit"
        return "not charged; forced past the memory limit if it is killed while charging"

    def try_charge(self, request: ChargeRequest) -> Refusal | None:
        """Charge in this family's order, and roll back in it (K38-K40)."""
        memcg, nbytes = request.memcg, request.nbytes
        if self.kmem_first:
            refusal = memcg.kmem.try_charge(nbytes)
            if refusal is not None:
                return refusal
            refusal = self._user_half_or_force(request)
            if refusal is not None:
                memcg.kmem.uncharge(nbytes)
            return refusal
        try:
            refusal = self._user_half(request, self._retry)
        except _Bypass:
            self.force(memcg, nbytes, kmem=self.bypass_forces_kmem)
            return None
        if refusal is None:
            refusal = memcg.kmem.try_charge(nbytes)
            if refusal is not None:
                # Not put back in the stock (K40, K54).
                memcg.uncharge_user_counters(nbytes)
        return refusal

    def charge_user(self, request: ChargeRequest) -> Refusal | None:
        """Charge the user half of K42; a bypass forces it in."""
        return self._user_half_or_force(request)

    def _user_half_or_force(self, request: ChargeRequest) -> Refusal | None:
        try:
            return self._user_half(request, self._retry)
        except _Bypass:
            self.force(request.memcg, request.nbytes, kmem=False)
            return None

    def _check_bypass(self, request: ChargeRequest) -> None:
        if request.dying:
            raise _Bypass

    def _may_oom(self, gfp: Gfp) -> bool:
        return bool(gfp & self.oom_needs) and not gfp & Gfp.NORETRY

    def _retry(self, request: ChargeRequest, refusal: Refusal) -> Refusal | None:
        """Reclaim and repeat the exact charge as K42.5-7 and K46 lay down."""
        memcg, nbytes, gfp = request.memcg, request.nbytes, request.gfp
        tree = memcg.tree
        credits_left = self.retries
        while True:
            if not gfp & Gfp.WAIT or gfp & Gfp.NORETRY:
                return refusal
            culprit = _owner(refusal)
            freed = self._reclaim(culprit, request, swap=refusal.counter.name != "memsw")
            progress = culprit.margin >= nbytes or (nbytes <= COSTLY and freed)
            if not progress:
                if not self._may_oom(gfp):
                    return refusal
                if credits_left == 0:
                    if not self._made_room_by_a_kill(culprit, request):
                        return refusal
                    credits_left = self.retries
                    progress = True
                else:
                    credits_left -= 1
            self._check_bypass(request)
            if progress and tree.stock and tree.cpu_stock.consume(memcg, nbytes):
                return None
            again = self._attempt(memcg, nbytes)
            if again is None:
                return None
            refusal = again

    def _made_room_by_a_kill(self, culprit: Memcg, request: ChargeRequest) -> bool:
        """Take the OOM step of K46; a task that is dying itself asks for nobody's death."""
        if not self.oom_kills:
            return False
        return request.dying or culprit.tree.oom_kill(culprit, request) is OomOutcome.KILLED

    @staticmethod
    def _reclaim(culprit: Memcg, request: ChargeRequest, *, swap: bool) -> int:
        """Take user pages back from the culprit's subtree (K45); return the bytes freed."""
        total = 0
        for number in range(RECLAIM_ROUNDS):
            if number:
                culprit.tree.drain_stocks(culprit)
            total += culprit.tree.reclaim(culprit, request, swap=swap)
            if culprit.margin or (number and not total):
                break
        return total


class _Effort:
    """What one charge has tried so far."""

    __slots__ = ("drained", "passed_oom", "retries_left")

    def __init__(self, retries: int) -> None:
        self.drained = False
        self.passed_oom = False
        self.retries_left = retries


class PageCounterCharging(Charging):
    """The design of 5.10: user counters first, and only what must not fail is forced (K110).

    Up to 5.10.79 a dying task's charge was forced past the memory limit. The recorded kernel is
    younger: there it is refused after one more round of retries, and no recording of an OOM kill
    has a max_usage above the limit (mm/memcontrol.c, ``passed_oom``).
    """

    @property
    def kills_at_memory_limit(self) -> bool:
        """Whether a kernel request that finds no room there has a task killed."""
        return True

    @property
    def at_memory_limit(self) -> str:
        """Say for people what a kernel request meets at the memory limit."""
        return f"reclaim, {self.retries} retries, an OOM kill"

    @property
    def when_dying(self) -> str:
        """Say for people what becomes of a dying task's request."""
        return "like any other; refused once the OOM killer was asked"

    def try_charge(self, request: ChargeRequest) -> Refusal | None:
        """Charge the user counters, then kmem; NOFAIL is never refused (K110)."""
        memcg, nbytes = request.memcg, request.nbytes
        refusal = self.charge_user(request)
        if refusal is not None:
            return refusal
        refusal = memcg.kmem.try_charge(nbytes)
        if refusal is None:
            return None
        if request.gfp & Gfp.NOFAIL:
            memcg.kmem.charge(nbytes, count_failures=False)
            return None
        memcg.uncharge_user_counters(nbytes)
        return refusal

    def charge_user(self, request: ChargeRequest) -> Refusal | None:
        """Charge memory and memsw; force them for atomic requests and for NOFAIL."""
        refusal = self._user_half(request, self._retry)
        if refusal is not None and request.gfp & (Gfp.NOFAIL | Gfp.ATOMIC):
            self.force(request.memcg, request.nbytes, kmem=False)
            return None
        return refusal

    def _retry(self, request: ChargeRequest, refusal: Refusal) -> Refusal | None:
        """Reclaim and repeat the exact charge until it fits or nothing helps."""
        memcg, nbytes = request.memcg, request.nbytes
        tree = memcg.tree
        effort = _Effort(self.retries)
        while self._may_try_again(request, refusal, effort):
            if tree.stock and tree.cpu_stock.consume(memcg, nbytes):
                return None
            again = self._attempt(memcg, nbytes)
            if again is None:
                return None
            refusal = again
        return refusal

    def _may_try_again(self, request: ChargeRequest, refusal: Refusal, effort: _Effort) -> bool:
        """Do the next thing that may make room; say whether there is one."""
        nbytes, gfp = request.nbytes, request.gfp
        if gfp & Gfp.ATOMIC or not gfp & Gfp.WAIT:
            return False
        culprit = _owner(refusal)
        tree = culprit.tree
        freed = tree.reclaim(culprit, request, swap=refusal.counter.name != "memsw")
        worth_it = culprit.margin >= nbytes
        if not worth_it and not effort.drained:
            tree.drain_stocks(culprit)
            worth_it = effort.drained = True
        if worth_it:
            return True
        if gfp & Gfp.NORETRY:
            return False
        worth_it = bool(freed) and nbytes <= COSTLY
        if not worth_it and effort.retries_left:
            effort.retries_left -= 1
            worth_it = True
        if worth_it or nbytes > COSTLY or gfp & Gfp.NOFAIL:
            # Nobody is killed for a large block: the caller can do with smaller ones.
            return worth_it
        return self._asked_for_a_kill(culprit, request, effort)

    def _asked_for_a_kill(self, culprit: Memcg, request: ChargeRequest, effort: _Effort) -> bool:
        """Ask for an OOM kill; say whether it is worth a new round of retries."""
        if request.dying and (effort.passed_oom or culprit.oom_kill_disable):
            return False
        # A task that dies already makes room by itself: nobody else is killed for it.
        if not request.dying:
            outcome = culprit.tree.oom_kill(culprit, request)
            if outcome is not OomOutcome.KILLED:
                return False
        effort.passed_oom = True
        effort.retries_left = self.retries
        return True
