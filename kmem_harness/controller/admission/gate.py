"""Answer each trapped call: charge and let it run, or have it decided with more thought.

Knows memcgs, boxes and listeners; knows no sockets. The hot path is :meth:`Gate.serve`; what happens
near a limit or at a new peak is for ``parked.py``.

The promise: what is really alive never exceeds what the limit admits. It is kept by charging
before the call, one ticket per thread (a thread is in one call at a time), and by taking a charge
back only after a census. A call is refused only after a census that began after it was trapped.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.admission.censuses import Censuses
from kmem_harness.controller.admission.parked import FURTHER, Call, Decisions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.admission.censuses import Later
    from kmem_harness.interposer.listener import Listener

__all__ = ["Gate"]


class Gate:
    """The one place where trapped calls are answered. Single-threaded, like all it touches."""

    def __init__(
        self,
        boxes: Callable[[], Iterable[Box]],
        later: Later,
        on_refusal: Callable[[Box, dict[str, Any]], None],
        resume: Callable[[Box, Listener, tuple[int, ...]], None] = lambda *_: None,
    ) -> None:
        """Decide for *boxes*; give the card of each refusal, where one is written, to *on_refusal*.

        What takes more than next to no time is done *later*, in steps. *resume* serves a call once more,
        by :meth:`serve`, that had to wait for a look at its name.
        """
        self._resume = resume
        self._later = later
        self.censuses = Censuses(boxes, self._serve_held)
        self.decisions = Decisions(self.censuses, later, on_refusal)
        #: Calls of boxes that are being looked at; whether they were judged by fault rules.
        self._held: dict[Box, list[tuple[Listener, tuple[int, ...], bool]]] = {}

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
        if box.is_looked_at:
            self._held.setdefault(box, []).append((listener, notification, judged))
            return
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
        if (
            charge.on_names
            and not watched
            and not box.watch_names(
                tid, charge, notification, lambda: self._resume(box, listener, notification)
            )
        ):
            return
        if charge.copies_memory:
            whole = box.known_fork(charge, tid, time.monotonic())
            if whole is None:
                self.decisions.begin(Call(box, listener, notification_id, tid, charge))
                return
            charge = whole
        nbytes = charge.nbytes
        if not nbytes:
            listener.allow(notification_id)
            return
        memcg = box.memcg
        room = nbytes * FURTHER
        if memcg.charge_without_peak(nbytes, room) or (
            # A new peak is looked at, to see that it is real; not so soon after the last look.
            memcg.kmem.usage + nbytes <= box.pace.beyond and memcg.charge_with_room(nbytes, room)
        ):
            box.let_run(listener, notification_id, tid, charge)
            return
        self.decisions.begin(Call(box, listener, notification_id, tid, charge))

    def forget(self, listener: Listener) -> None:
        """Drop the waiting calls of a listener that is no more."""
        self.decisions.forget(listener)
        for box, calls in list(self._held.items()):
            self._held[box] = [call for call in calls if call[0] is not listener]

    def _serve_held(self, box: Box) -> None:
        """Serve the calls of *box* that came while it was looked at, and go on with what waits for it."""
        waiting, box.awaiting = box.awaiting, []
        for job in waiting:
            self._later.spawn(job)
        if box in self._held:
            self._later.spawn(self._serving(box, self._held.pop(box)))

    def _serving(
        self, box: Box, calls: list[tuple[Listener, tuple[int, ...], bool]]
    ) -> Iterator[None]:
        with box.guard:
            for listener, notification, judged in calls:
                if listener in box.listeners:
                    box.withdraw()  # nobody lends it anew after this
                    self.serve(box, listener, notification, judged=judged)
                yield


def _is_answered(
    box: Box, listener: Listener, notification: tuple[int, ...], *, judged: bool
) -> bool:
    """Answer what is not to be priced.

    That is a call of a box that ends, what fault rules decide, and what others are asked about.
    """
    if box.ending:
        # Nothing new may be made, and whoever asks is about to be killed: an error would only make it
        # complain. Not a refusal, for no limit was met.
        box.unanswered += 1
        return True
    if box.faults is not None and box.faults.answers(box, listener, notification, judged=judged):
        return True
    ask = box.asked.get(notification[3])
    if ask is None:
        return False
    box.notifications -= 1  # it is seen for our own sake, and makes nothing
    ask(listener, notification)
    return True
