"""Decide the calls that wait: near a limit or at a new peak, after a look at what is alive.

Knows boxes, counters and looks. A decision is a job in steps, during which others are served and
nothing is promised: what it saw of counters before a step it sees again after. In its last step the
call is charged and answered, or refused, or parked for another decision.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.account.pace import PEAK_PARTS
from kmem_harness.core.errors import AccountingError
from kmem_harness.procfs.census import last_child_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmem_harness.controller.account.books import Charge
    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.admission.censuses import Censuses, Later
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.interposer.listener import Listener
    from kmem_harness.procfs.steps import Steps

__all__ = ["FURTHER", "PARK_SECONDS", "Call", "Decisions"]

#: How long a call may wait for it to become certain whether it fits.
PARK_SECONDS = 0.020
#: ... and for a look at a box that takes long, and has had its share of the time.
_MOST_SECONDS = 1.0
_OLD_COUNT = (
    "calls were refused on a count from before they were made: a look at this box takes so long that "
    f"they would have waited for more than {_MOST_SECONDS:.0f} s"
)
#: With room for no more than so many further objects, remember a thread's youngest child: proof
#: for later.
FURTHER = 3
#: A parked call is looked at again this often.
_TICK_SECONDS = 0.001
#: So long a decision may keep the others waiting before they are served between its steps.
_AT_ONCE_SECONDS = 0.000_05


class Call:
    """A call that waits for an answer."""

    __slots__ = ("box", "charge", "deadline", "id", "killed", "listener", "tid", "trapped")

    def __init__(
        self, box: Box, listener: Listener, notification_id: int, tid: int, charge: Charge
    ) -> None:
        """Begin to wait now."""
        self.box = box
        self.listener = listener
        self.id = notification_id
        self.tid = tid
        self.charge = charge
        self.trapped = time.monotonic()
        self.deadline = self.trapped + PARK_SECONDS
        self.killed = False


class Decisions:
    """All calls that wait, and what becomes of them."""

    def __init__(
        self, censuses: Censuses, later: Later, on_refusal: Callable[[Box, dict[str, Any]], None]
    ) -> None:
        """Look by *censuses*; give the card of each refusal, where one is written, to *on_refusal*."""
        self._censuses = censuses
        self._later = later
        self._on_refusal = on_refusal
        #: Calls that wait for another decision, and those that are being decided.
        self.parked: list[Call] = []
        self._deciding: set[Call] = set()
        self._is_ticking = False

    def begin(self, call: Call) -> None:
        """Decide *call*: at once if that takes next to no time, else in between."""
        self._begin(call, time.monotonic() + _AT_ONCE_SECONDS)

    def retry_parked(self) -> None:
        """Look again at every call that waits; each is answered by its deadline."""
        again, self.parked = self.parked, []
        end = time.monotonic() + _AT_ONCE_SECONDS
        for call in again:
            self._begin(call, end)

    def _begin(self, call: Call, end: float) -> None:
        self._deciding.add(call)
        job = self._deciding_guarded(call)
        while time.monotonic() < end:
            waits: Any = next(job, job)
            if waits is job:
                return
            if waits is not None:
                waits.append(job)
                return
        self._later.spawn(job)

    def forget(self, listener: Listener) -> None:
        """Drop the waiting calls of a listener that is no more."""
        self.parked = [call for call in self.parked if call.listener is not listener]
        self._deciding = {call for call in self._deciding if call.listener is not listener}

    # -- one decision ----------------------------------------------------------------------

    def _deciding_guarded(self, call: Call) -> Iterator[Any]:
        try:
            with call.box.guard:
                yield from self._decide(call)
        finally:
            self._deciding.discard(call)

    def _decide(self, call: Call) -> Steps[None]:
        box = call.box
        yield from self._price(call)
        nbytes = call.charge.nbytes
        too_late = time.monotonic() >= call.deadline
        over = [] if box.observe else all_over(box, nbytes)
        sure = True
        if not over:
            if not (yield from self._confirm_peak(call)):
                self._park(call)
                return
        else:
            # Forced at the deadline: nothing is refused on an old count, if that can be had at all.
            for one in self._censuses.below(over):
                sure &= yield from self._make_room(one, over, call, forced=too_late)
        while box.is_looked_at:
            yield box.awaiting
        # From here on nothing else happens before the answer, but in a census that finds a victim.
        if call not in self._deciding:
            return  # its listener is gone
        # A census may find more than was charged, as page tables that grew.
        was_over, over = bool(over), [] if box.observe else all_over(box, nbytes)
        if box.ending:
            box.unanswered += 1  # as in the gate
        elif not over:
            self._let_run(call)
        elif not was_over or not self._is_ready(call, over, sure=sure, too_late=too_late):
            self._park(call)
        elif self._may_kill(call, over):
            yield from self._kill(call, over)
            self._park(call)
        else:
            self._refuse(call)

    def _price(self, call: Call) -> Steps[None]:
        """Find out what a call comes to that copies its caller's address space."""
        box, charge, tid = call.box, call.charge, call.tid
        if charge.copies_memory:
            whole = box.known_fork(charge, tid, time.monotonic())
            call.charge = whole or (yield from box.learn_fork(charge, tid))

    def _park(self, call: Call) -> None:
        self.parked.append(call)
        if not self._is_ticking:
            self._is_ticking = True
            self._later.call_later(_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._is_ticking = False
        self.retry_parked()

    def _let_run(self, call: Call) -> None:
        box, charge, nbytes = call.box, call.charge, call.charge.nbytes
        box.withdraw()
        if box.observe:
            box.memcg.charge(nbytes)
        else:
            # Proof for later, should the limit be met while this thread is still in its clone.
            if charge.makes_task and all_over(box, nbytes * (1 + FURTHER)):
                charge = charge.made_after(last_child_of(call.tid))
            if box.memcg.try_charge(nbytes) is not None:
                message = f"{box.memcg.path} had room for {nbytes} bytes and refused them"
                raise AccountingError(message)
        box.let_run(call.listener, call.id, call.tid, charge)
        box.note_usage()

    def _refuse(self, call: Call) -> None:
        box, charge, listener = call.box, call.charge, call.listener
        if not listener.is_waiting(call.id):
            return
        box.withdraw()
        # The kernel leaves peaks below the counter that refuses, of a charge that never was (K4): then a
        # child's is above its parent's.
        peaks = [counter.max_usage for counter in box.counters]
        refusal = box.memcg.try_charge(charge.nbytes)
        if refusal is None:
            message = f"{box.memcg.path} had no room for {charge.nbytes} bytes and took them"
            raise AccountingError(message)
        for counter, peak in zip(box.counters, peaks, strict=True):
            counter.max_usage = peak
        caller = box.caller(call.tid)
        if listener.deny(call.id, charge.parts[0][0].errno):
            card = box.refused(charge, refusal.counter, caller)
            if card:
                self._on_refusal(box, card)

    # -- what a decision looks at ----------------------------------------------------------

    def _confirm_peak(self, call: Call) -> Steps[bool]:
        """See that a new max_usage is real: without this, the dead would be part of it.

        False if that has to wait for looks at others. What grew by less than a hundredth since the
        last look need not be looked at again.
        """
        box, nbytes = call.box, call.charge.nbytes
        peak = box.memcg.kmem.usage + nbytes
        if peak <= box.pace.beyond or self._censuses.spares(box, peak) or _is_late(call):
            return True
        if self._censuses.are_many:
            return False
        rising = (one for one in box.counters if one.usage + nbytes > one.max_usage)
        counter = next(rising, None)
        if counter and (peak - box.pace.seen) * PEAK_PARTS > counter.usage + nbytes:
            yield from self._look_for_dead(call, counter)
        return True

    def _look_for_dead(self, call: Call, counter: ResourceCounter) -> Steps[None]:
        """Take back what is gone, until the call is no new peak of *counter*.

        A call that has waited for others' looks until its deadline waits for none of its own, and none
        waits for a long look at another box if only counters without a limit rise.
        """
        for one in self._censuses.below([counter]):
            more = counter.usage + call.charge.nbytes - counter.max_usage
            if more <= 0 or _is_late(call):
                return
            mine = one is call.box
            if not mine and counter.unlimited and not one.is_quick_to_look_at:
                continue
            if mine or one.memcg.kmem.usage > one.pace.beyond:
                yield from self._censuses.for_peak(one, more, call.deadline)

    def _make_room(
        self, box: Box, over: list[ResourceCounter], call: Call, *, forced: bool
    ) -> Steps[bool]:
        """Count what of *box* may be gone; true if nothing that would make room was left out."""
        short = max(counter.usage + call.charge.nbytes - counter.limit for counter in over)
        if short <= 0:
            return True  # another box made the room
        return (yield from self._censuses.for_room(box, short, call.trapped, forced=forced))

    def _may_kill(self, call: Call, over: list[ResourceCounter]) -> bool:
        """Say whether this kernel kills a task for a call that only lacks memory.

        Once for each call: what that does not make room for is refused.
        """
        return (
            not call.killed
            and call.box.memcg.tree.charging.kills_at_memory_limit
            and all(counter.name != "kmem" for counter in over)
        )

    def _kill(self, call: Call, over: list[ResourceCounter]) -> Steps[None]:
        call.killed = True
        for one in self._censuses.below(over):
            if one.user is not None and (yield from self._censuses.kill(one, over[0])):
                call.deadline = time.monotonic() + PARK_SECONDS
                return

    def _is_ready(
        self, call: Call, over: list[ResourceCounter], *, sure: bool, too_late: bool
    ) -> bool:
        """Say whether *call* may be refused by now: *sure* that what was left out makes no room."""
        if sure:
            return too_late or self._is_certain(over, call.charge.nbytes)
        is_hopeless = time.monotonic() >= call.trapped + _MOST_SECONDS
        if is_hopeless:
            call.box.doubt(_OLD_COUNT)
        return is_hopeless

    def _is_certain(self, over: list[ResourceCounter], nbytes: int) -> bool:
        """Say whether one of *over* would refuse even if no call under way comes to anything."""
        for counter in over:
            unproven = sum(box.books.unproven_nbytes() for box in self._censuses.below([counter]))
            if counter.usage - unproven + nbytes > counter.limit:
                return True
        return False


def _is_late(call: Call) -> bool:
    """Say whether a call has waited long enough for looks at peaks. What is recorded shall be exact."""
    return call.box.recording is None and time.monotonic() >= call.deadline


def all_over(box: Box, nbytes: int) -> list[ResourceCounter]:
    """List the counters that would refuse *nbytes*, touching none of them."""
    return [counter for counter in box.counters if counter.usage + nbytes > counter.limit]
