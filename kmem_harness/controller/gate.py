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

from kmem_harness.controller.box import Ticket
from kmem_harness.core.errors import AccountingError
from kmem_harness.interposer.census import clone_is_over, last_child_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kmem_harness.controller.box import Box, Kind, Price
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.interposer.listener import Listener

__all__ = ["PARK_SECONDS", "Gate"]

#: How long a call may wait for it to become certain whether it fits.
PARK_SECONDS = 0.020
#: Within this many further objects of a limit, remember a thread's youngest child: proof later.
_NEAR = 4
#: A census this quick is taken whenever one is due; a slower one gets at most 1/5 of the time.
_QUICK_CENSUS_SECONDS = 0.000_25
_CENSUS_REST = 4.0


class _Parked:
    """A call that waits for an answer."""

    __slots__ = ("box", "deadline", "id", "kind", "listener", "price", "tid")

    def __init__(
        self,
        box: Box,
        listener: Listener,
        notification_id: int,
        tid: int,
        price: Price,
        kind: Kind,
        deadline: float,
    ) -> None:
        self.box = box
        self.listener = listener
        self.id = notification_id
        self.tid = tid
        self.price = price
        self.kind = kind
        self.deadline = deadline


class Gate:
    """The one place where trapped calls are answered. Single-threaded, like all it touches."""

    def __init__(
        self,
        boxes: Callable[[], Iterable[Box]],
        on_refusal: Callable[[Box, dict[str, Any]], None],
    ) -> None:
        """Decide for *boxes*; give the card of each refusal, where one is written, to *on_refusal*."""
        self._boxes = boxes
        self._on_refusal = on_refusal
        self._parked: list[_Parked] = []

    @property
    def has_parked(self) -> bool:
        """Say whether :meth:`retry_parked` must be called soon."""
        return bool(self._parked)

    def serve(self, box: Box, listener: Listener) -> None:
        """Answer one waiting notification of *listener*, one of *box*'s."""
        notification = listener.receive()
        if notification is None:
            return
        box.notifications += 1
        notification_id, tid, _, number = notification[:4]
        # A thread is in one call at a time: whatever it was allowed before is over.
        box.tickets.pop(tid, None)
        if box.ending:
            # Teardown: nothing new may be made. Not a refusal, for no limit was met.
            listener.deny(notification_id, ENOMEM)
            return
        price = box.prices[number]
        kind = price.kind
        if price.mask and notification[6 + price.arg] & price.mask:
            kind = price.kind_if_set
        nbytes = kind.nbytes
        near = nbytes * _NEAR
        for counter in box.counters:
            usage = counter.usage
            if usage + nbytes > counter.max_usage or usage + near > counter.limit:
                break
        else:
            if box.memcg.try_charge(nbytes) is None:
                self._let_run(box, listener, notification_id, tid, price, kind, None)
                return
        deadline = time.monotonic() + PARK_SECONDS
        self._decide(_Parked(box, listener, notification_id, tid, price, kind, deadline))

    def retry_parked(self) -> None:
        """Look again at every call that waits; each is answered by its deadline."""
        waiting, self._parked = self._parked, []
        for parked in waiting:
            self._decide(parked)

    def forget(self, listener: Listener) -> None:
        """Drop the waiting calls of a listener that is no more."""
        self._parked = [parked for parked in self._parked if parked.listener is not listener]

    def take_census(self, below: ResourceCounter) -> None:
        """Bring the books of every box whose charges walk *below* up to date."""
        for box in self._below([below]):
            box.take_census(clone_is_over)

    def look(self, box: Box) -> None:
        """See how *box* is doing now, for its timeline, with a census if one is due."""
        self._census_if_due(box, time.monotonic(), forced=False)
        box.note_usage()
        if box.recording is not None:
            box.recording.flush()

    # -- near a limit, or at a new peak ------------------------------------------------------

    def _decide(self, call: _Parked) -> None:
        box, kind = call.box, call.kind
        if box.ending:
            call.listener.deny(call.id, ENOMEM)
            return
        if box.observe:
            self._confirm_peak(box, kind.nbytes)
            box.memcg.charge(kind.nbytes)
            self._let_run(box, call.listener, call.id, call.tid, call.price, kind, None)
            box.note_usage()
            return
        now = time.monotonic()
        too_late = now >= call.deadline
        over = _all_over(box, kind.nbytes)
        if not over:
            self._confirm_peak(box, kind.nbytes)
        else:
            # Forced at the deadline: nothing is refused on an old count.
            counted = self._below(over)
            fresh = [self._census_if_due(one, now, forced=too_late) for one in counted]
            over = _all_over(box, kind.nbytes)
            if over:
                if too_late or (all(fresh) and any(self._is_certain(one, kind) for one in over)):
                    self._refuse(call)
                else:
                    self._parked.append(call)
                return
        # Proof for later, should the limit be met while this thread is still in its clone.
        near = bool(_all_over(box, kind.nbytes * _NEAR))
        before = last_child_of(call.tid) if near else None
        if box.memcg.try_charge(kind.nbytes) is not None:
            message = f"{box.memcg.path} had room for {kind.nbytes} bytes and refused them"
            raise AccountingError(message)
        self._let_run(box, call.listener, call.id, call.tid, call.price, kind, before)
        box.note_usage()

    def _refuse(self, call: _Parked) -> None:
        box, kind, listener = call.box, call.kind, call.listener
        if not listener.is_waiting(call.id):
            return
        refusal = box.memcg.try_charge(kind.nbytes)
        if refusal is None:
            message = f"{box.memcg.path} had no room for {kind.nbytes} bytes and took them"
            raise AccountingError(message)
        caller = box.caller(call.tid)
        if listener.deny(call.id, kind.errno):
            card = box.refused(call.price, kind, refusal.counter, caller)
            if card:
                self._on_refusal(box, card)

    def _let_run(
        self,
        box: Box,
        listener: Listener,
        notification_id: int,
        tid: int,
        price: Price,
        kind: Kind,
        last_child: bytes | None,
    ) -> None:
        box.enter(kind)
        if price.uncertain or kind is not price.kind:
            box.may_have_threads = True
        if listener.allow(notification_id):
            box.tickets[tid] = Ticket(kind, price.number, last_child)
            if box.recording is not None:
                box.recording.made(tid, price.name, kind.name, kind.nbytes)
        else:
            box.cancel(kind)

    def _confirm_peak(self, box: Box, nbytes: int) -> None:
        """See that a new max_usage is real: without this, dead tasks would be part of it."""
        for counter in box.counters:
            if counter.usage + nbytes > counter.max_usage:
                now = time.monotonic()
                # What is recorded shall be as exact as a refusal would be.
                forced = box.recording is not None
                for one in self._below([counter]):
                    self._census_if_due(one, now, forced=forced)
                return

    def _census_if_due(self, box: Box, now: float, *, forced: bool) -> bool:
        """Count a box unless it was just counted at length; true if its books are fresh."""
        if box.census is None:
            return True
        # The average keeps one census that was held up from looking like a large box.
        cost = min(box.census_last_seconds, box.census_seconds / max(box.censuses, 1))
        rested = box.census_began + cost * (1 + _CENSUS_REST)
        if forced or cost < _QUICK_CENSUS_SECONDS or now >= rested:
            box.take_census(clone_is_over)
            return True
        return False

    def _is_certain(self, counter: ResourceCounter, kind: Kind) -> bool:
        """Say whether *counter* would refuse even if no clone under way comes to anything."""
        unproven = sum(box.unproven_bytes() for box in self._below([counter]))
        return counter.usage - unproven + kind.nbytes > counter.limit

    def _below(self, counters: list[ResourceCounter]) -> list[Box]:
        """List the boxes whose charges walk any of *counters*."""
        return [box for box in self._boxes() if any(one in box.counters for one in counters)]


def _all_over(box: Box, nbytes: int) -> list[ResourceCounter]:
    """List the counters that would refuse *nbytes*, touching none of them."""
    return [counter for counter in box.counters if counter.usage + nbytes > counter.limit]
