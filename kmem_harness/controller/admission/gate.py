"""Decide each trapped call: charge and let it run, refuse it, or let it wait a moment.

Knows memcgs, boxes and listeners; knows no sockets. The hot path is :meth:`Gate.serve` down to
its first answer; everything else happens near a limit or at a new peak.

The promise: what is really alive never exceeds what the limit admits. It is kept by charging
before the call, one ticket per thread (a thread is in one call at a time), and by taking a charge
back only after a census. A call is refused only after a census that began after it was trapped.
"""

from __future__ import annotations

import time
from errno import ENOMEM
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.account.box import PEAK_PARTS
from kmem_harness.core.errors import AccountingError
from kmem_harness.procfs.census import call_is_over, last_child_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kmem_harness.controller.account.books import Charge
    from kmem_harness.controller.account.box import Box
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.interposer.listener import Listener

__all__ = ["PARK_SECONDS", "Gate"]

#: How long a call may wait for it to become certain whether it fits.
PARK_SECONDS = 0.020
#: With room for no more than so many further objects, remember a thread's youngest child: proof
#: for later.
_FURTHER = 3
#: After a look at its peak a box rests nine times as long: it gets a tenth of the time. More than two
#: that rest share out a fifth evenly, or sixty-four would leave no time for calls.
_PEAK_REST = 9.0
_PEAK_SHARE = 0.5


class _Parked:
    """A call that waits for an answer."""

    __slots__ = ("box", "charge", "deadline", "id", "killed", "listener", "tid", "trapped")

    def __init__(
        self,
        box: Box,
        listener: Listener,
        notification_id: int,
        tid: int,
        charge: Charge,
        deadline: float,
    ) -> None:
        self.box = box
        self.listener = listener
        self.id = notification_id
        self.tid = tid
        self.charge = charge
        self.deadline = deadline
        self.trapped = deadline - PARK_SECONDS
        self.killed = False


class Gate:
    """The one place where trapped calls are answered. Single-threaded, like all it touches."""

    def __init__(
        self,
        boxes: Callable[[], Iterable[Box]],
        on_refusal: Callable[[Box, dict[str, Any]], None],
        resume: Callable[[Box, Listener, tuple[int, ...]], None] = lambda *_: None,
    ) -> None:
        """Decide for *boxes*; give the card of each refusal, where one is written, to *on_refusal*.

        *resume* serves a call once more, by :meth:`serve`, that had to wait for a look at its name.
        """
        self._boxes = boxes
        self._on_refusal = on_refusal
        self._resume = resume
        #: Calls that wait: while there are any, :meth:`retry_parked` must be called soon.
        self.parked: list[_Parked] = []
        #: The box that waits while others are served between two steps of something longer, if one
        #: does: then nothing is done that could take long itself.
        self.waiting: Box | None = None
        #: Seconds spent on others between such steps.
        self.away_seconds = 0.0

    def serve(
        self,
        box: Box,
        listener: Listener,
        notification: tuple[int, ...],
        *,
        judged: bool = False,
        watched: bool = False,
    ) -> None:
        """Answer *notification* of *listener*, one of *box*'s.

        *judged* by fault rules it is not shown to them again, nor *watched* its name looked at.
        """
        box.notifications += 1
        notification_id, tid, _, number = notification[:4]
        # A thread is in one call at a time: whatever it was allowed before is over.
        box.tickets.pop(tid, None)
        if (box.ending or box.faults is not None or number in box.asked) and _is_answered(
            box, listener, notification, judged=judged
        ):
            return
        price = box.prices[number]
        charge = price.always
        if charge is None:
            charge = price.choose(notification)
        if charge.copies_memory:
            charge = box.fork_charge(charge, tid, time.monotonic())
        if (
            charge.on_names
            and not watched
            and not box.watch_names(
                tid, charge, notification, lambda: self._resume(box, listener, notification)
            )
        ):
            return
        nbytes = charge.nbytes
        if not nbytes:
            listener.allow(notification_id)
            return
        memcg = box.memcg
        room = nbytes * _FURTHER
        if memcg.charge_without_peak(nbytes, room) or (
            # A new peak is looked at, to see that it is real; not so soon after the last look.
            (
                memcg.kmem.usage + nbytes <= self._quiet_until(box)
                or time.monotonic() < box.rests_until
            )
            and memcg.charge_with_room(nbytes, room)
        ):
            self._let_run(box, listener, notification_id, tid, charge)
            return
        deadline = time.monotonic() + PARK_SECONDS
        call = _Parked(box, listener, notification_id, tid, charge, deadline)
        if self.waiting is not None:
            self.parked.append(call)
        else:
            self._decide(call)

    def retry_parked(self, breathe: Callable[[Box], None] | None = None) -> None:
        """Look again at every call that waits; each is answered by its deadline.

        *breathe* is called after each, with its box.
        """
        waiting, self.parked = self.parked, []
        for parked in waiting:
            with parked.box.guard:
                self._decide(parked)
            if breathe is not None:
                breathe(parked.box)

    def forget(self, listener: Listener) -> None:
        """Drop the waiting calls of a listener that is no more."""
        self.parked = [parked for parked in self.parked if parked.listener is not listener]

    def take_census(self, below: ResourceCounter) -> None:
        """Bring the books of every box whose charges walk *below* up to date."""
        for box in self._below([below]):
            with box.guard:
                box.take_census(call_is_over)

    def look(self, box: Box) -> None:
        """See how *box* is doing now, for its timeline, with a census where one is due."""
        with box.guard:
            if box.audit is not None:
                box.audit.due_parts(time.monotonic(), lambda: box.prove_tickets(call_is_over))
                box.note_seen()
            box.note_usage()
            if box.recording is not None:
                box.recording.flush()

    # -- near a limit, or at a new peak ------------------------------------------------------

    def _decide(self, call: _Parked) -> None:
        box, charge = call.box, call.charge
        nbytes = charge.nbytes
        box.withdraw()
        if box.ending:
            call.listener.deny(call.id, ENOMEM)
            return
        if box.observe:
            self._confirm_peak(call)
            box.memcg.charge(nbytes)
            self._let_run(box, call.listener, call.id, call.tid, charge)
            box.note_usage()
            return
        now = time.monotonic()
        too_late = now >= call.deadline
        over = _all_over(box, nbytes)
        if not over:
            self._confirm_peak(call)
            # A census may find more than was charged, as page tables that grew: look again.
            if _all_over(box, nbytes):
                self.parked.append(call)
                return
        else:
            # Forced at the deadline: nothing is refused on an old count.
            fresh = [self._make_room(one, over, call, now) for one in self._below(over)]
            over = _all_over(box, nbytes)
            if over:
                if too_late or (all(fresh) and any(self._is_certain(one, nbytes) for one in over)):
                    if self._kills(call, over):
                        call.deadline = now + PARK_SECONDS
                        self.parked.append(call)
                        return
                    self._refuse(call)
                else:
                    self.parked.append(call)
                return
        # Proof for later, should the limit be met while this thread is still in its clone.
        if charge.makes_task and _all_over(box, nbytes * (1 + _FURTHER)):
            charge = charge.made_after(last_child_of(call.tid))
        if box.memcg.try_charge(nbytes) is not None:
            message = f"{box.memcg.path} had room for {nbytes} bytes and refused them"
            raise AccountingError(message)
        self._let_run(box, call.listener, call.id, call.tid, charge)
        box.note_usage()

    def _kills(self, call: _Parked, over: list[ResourceCounter]) -> bool:
        """Have a task killed where this kernel would, for a call that only lacks memory.

        Once for each call: what that does not make room for is refused.
        """
        charging = call.box.memcg.tree.charging
        if call.killed or not charging.kills_at_memory_limit:
            return False
        if any(counter.name == "kmem" for counter in over):
            return False
        call.killed = True
        return any(
            self._kills_in(one, over[0]) for one in self._below(over) if one.user is not None
        )

    def _kills_in(self, box: Box, over: ResourceCounter) -> bool:
        with box.guard:
            return box.user is not None and box.user.make_room(over)
        return False

    def _refuse(self, call: _Parked) -> None:
        box, charge, listener = call.box, call.charge, call.listener
        if not listener.is_waiting(call.id):
            return
        refusal = box.memcg.try_charge(charge.nbytes)
        if refusal is None:
            message = f"{box.memcg.path} had no room for {charge.nbytes} bytes and took them"
            raise AccountingError(message)
        caller = box.caller(call.tid)
        if listener.deny(call.id, charge.parts[0][0].errno):
            card = box.refused(charge, refusal.counter, caller)
            if card:
                self._on_refusal(box, card)

    def _let_run(
        self, box: Box, listener: Listener, notification_id: int, tid: int, charge: Charge
    ) -> None:
        box.enter(charge)
        if listener.allow(notification_id):
            box.tickets[tid] = charge
            if box.recording is not None:
                box.recording.made(tid, charge)
        else:
            box.books.cancel(charge)

    def _confirm_peak(self, call: _Parked) -> None:
        """See that a new max_usage is real: without this, the dead would be part of it.

        What grew by less than a hundredth since the last look need not be looked at again. A call
        that has waited for others' looks until its deadline waits for none of its own, and none
        waits for a long look at another box if only counters without a limit rise.
        """
        box, nbytes = call.box, call.charge.nbytes
        if box.recording is None and time.monotonic() >= call.deadline:
            return
        for counter in box.counters:
            if counter.usage + nbytes <= counter.max_usage:
                continue
            grown = box.memcg.kmem.usage + nbytes - box.usage_seen
            if grown * PEAK_PARTS <= counter.usage + nbytes:
                return
            if box.recording is not None:
                # What is recorded shall be as exact as a refusal would be.
                self.take_census(counter)
                box.note_seen()
            else:
                for one in self._below([counter]):
                    more = counter.usage + nbytes - counter.max_usage
                    now = time.monotonic()
                    if more <= 0 or now >= call.deadline:
                        break
                    if one is not box and counter.unlimited and not one.is_quick_to_look_at:
                        continue
                    if now >= one.rests_until:
                        self._look_for_dead(one, more, now)
            return

    def _quiet_until(self, box: Box) -> int:
        """Say up to what use a new peak of *box* is let by now. What is recorded shall be exact."""
        spared = self.waiting is not None and box.recording is None
        return box.spared_until if spared else box.quiet_until

    def _look_for_dead(self, box: Box, nbytes: int, now: float) -> None:
        """Take *nbytes* of what is gone back from *box*, or see that there is less; then let it rest."""
        if box.audit is None:
            return
        with box.guard:
            before, away = box.books.lowered_nbytes, self.away_seconds
            box.audit.parts_for(
                nbytes, now, now, lambda: box.prove_tickets(call_is_over), forced=False
            )
            if box.books.lowered_nbytes - before < nbytes:
                box.note_seen()
            if box.recording is not None:
                return  # its next peak is looked at, too
            end = time.monotonic()
            took = end - now - (self.away_seconds - away)
            resting = sum(one.rests_until > now for one in self._boxes())
            box.rests_until = end + took * _PEAK_REST * max(1.0, (resting + 1) * _PEAK_SHARE)

    def _make_room(self, box: Box, over: list[ResourceCounter], call: _Parked, now: float) -> bool:
        """Count what of *box* may be gone; true if nothing that would make room was left out."""
        if box.audit is None:
            return True
        short = max(counter.usage + call.charge.nbytes - counter.limit for counter in over)
        if short <= 0:
            return True  # another box made the room
        with box.guard:
            return box.audit.parts_for(
                short,
                call.trapped,
                now,
                lambda: box.prove_tickets(call_is_over),
                forced=now >= call.deadline,
            )
        return False

    def _is_certain(self, counter: ResourceCounter, nbytes: int) -> bool:
        """Say whether *counter* would refuse even if no call under way comes to anything."""
        unproven = sum(box.books.unproven_nbytes() for box in self._below([counter]))
        return counter.usage - unproven + nbytes > counter.limit

    def _below(self, counters: list[ResourceCounter]) -> list[Box]:
        """List the boxes whose charges walk any of *counters*."""
        return [box for box in self._boxes() if any(one in box.counters for one in counters)]


def _is_answered(
    box: Box, listener: Listener, notification: tuple[int, ...], *, judged: bool
) -> bool:
    """Answer what is not to be priced.

    That is a call of a box that ends, what fault rules decide, and what others are asked about.
    """
    if box.ending:
        # Teardown: nothing new may be made. Not a refusal, for no limit was met.
        listener.deny(notification[0], ENOMEM)
        return True
    if box.faults is not None and box.faults.answers(box, listener, notification, judged=judged):
        return True
    ask = box.asked.get(notification[3])
    if ask is None:
        return False
    box.notifications -= 1  # it is seen for our own sake, and makes nothing
    ask(listener, notification)
    return True


def _all_over(box: Box, nbytes: int) -> list[ResourceCounter]:
    """List the counters that would refuse *nbytes*, touching none of them."""
    return [counter for counter in box.counters if counter.usage + nbytes > counter.limit]
