"""Look at boxes, one look at a box at a time, in steps between which everybody else is served.

Knows boxes and their audits, and what a look is for; how steps alternate with all else is the loop's
business. A box is not lent while it is looked at, and its calls wait: nothing is charged to it then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from kmem_harness.procfs.census import call_is_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.audit.audit import Audit
    from kmem_harness.controller.audit.user_memory import UserPart
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.procfs.steps import Steps

__all__ = ["Censuses", "Later"]

_T = TypeVar("_T")
#: With so many looks under way, those at peaks are put off.
_MANY = 4


class Later(Protocol):
    """What does something later: the loop, as far as this room knows it."""

    def spawn(self, job: Iterator[object]) -> None:
        """Take the steps of *job*, between which all else is done."""

    def call_later(self, seconds: float, action: Callable[[], object]) -> object:
        """Run *action* once, not before *seconds* have passed."""


class Censuses:
    """All looks at all boxes."""

    def __init__(self, boxes: Callable[[], Iterable[Box]], seen: Callable[[Box], None]) -> None:
        """Look at *boxes*; tell *seen* of each that is looked at no longer."""
        self._boxes = boxes
        self._seen = seen
        #: How many are under way, and the boxes that are spared one until there is none.
        self._nr_looks = 0
        self._spared: list[Box] = []

    def below(self, counters: list[ResourceCounter]) -> list[Box]:
        """List the boxes whose charges walk any of *counters*."""
        return [box for box in self._boxes() if any(one in box.counters for one in counters)]

    def take(self, below: ResourceCounter) -> Steps[None]:
        """Bring the books of every box whose charges walk *below* up to date."""
        for box in self.below([below]):
            yield from self.take_of(box)

    def take_of(self, box: Box) -> Steps[None]:
        """Bring the books of *box* up to date."""

        def look(audit: Audit) -> Steps[None]:
            yield from box.prove_tickets(call_is_over)
            yield from audit.all_parts()
            box.note_usage()

        yield from self._look(box, look, None)

    def take_last(self, box: Box) -> Steps[None]:
        """Count once more when no call can be under way: every ticket is over."""

        def look(audit: Audit) -> Steps[None]:
            box.tickets.clear()
            yield from audit.all_parts()
            box.note_usage()

        yield from self._look(box, look, None)

    def prove(self, box: Box) -> Steps[None]:
        """Find out which calls of *box* are over."""
        yield from self._look(box, lambda _: box.prove_tickets(call_is_over), None)

    def note(self, box: Box) -> Steps[None]:
        """See how *box* is doing now, for its timeline, with a census where one is due."""

        def look(audit: Audit) -> Steps[None]:
            began, before, seconds = time.monotonic(), box.memcg.kmem.usage, audit.seconds
            yield from audit.due_parts(began, lambda: box.prove_tickets(call_is_over))
            self._pace(box, before, began, audit.seconds - seconds)

        yield from self._look(box, look, None)
        with box.guard:
            box.note_usage()
            if box.recording is not None:
                box.recording.flush()

    def follow_user_memory(self, box: Box, user: UserPart) -> Steps[float]:
        """Charge what the user memory of *box* has grown by; give the seconds that took."""

        def look(audit: Audit) -> Steps[float]:
            seconds = audit.seconds
            yield from audit.one_part(user)
            box.note_usage()
            return audit.seconds - seconds

        return (yield from self._look(box, look, 0.0))

    def kill(self, box: Box, over: ResourceCounter) -> Steps[bool]:
        """Kill a process of *box* for a kernel allocation that met *over*; false if there is none."""

        def look(_: Audit) -> Steps[bool]:
            return box.user is not None and (yield from box.user.make_room(over))

        return (yield from self._look(box, look, otherwise=False))

    def for_peak(self, box: Box, nbytes: int, by: float) -> Steps[None]:
        """Take *nbytes* of what is gone back from *box*, or see that there is less; begin *by* then."""

        def look(audit: Audit) -> Steps[None]:
            now, before, seconds = time.monotonic(), box.memcg.kmem.usage, audit.seconds
            if box.recording is not None:
                # What is recorded shall be as exact as a refusal would be.
                yield from box.prove_tickets(call_is_over)
                yield from audit.all_parts()
            elif now < by:
                yield from audit.parts_for(
                    nbytes, now, now, lambda: box.prove_tickets(call_is_over), forced=False
                )
            self._pace(box, before, now, audit.seconds - seconds)

        yield from self._look(box, look, None)

    @property
    def are_many(self) -> bool:
        """Whether so many looks are under way that one more would keep all of them waiting."""
        return self._nr_looks >= _MANY

    def spares(self, box: Box, usage: int) -> bool:
        """Say whether a new peak of *box* is let by, for others are looked at just now.

        What is recorded shall be exact.
        """
        spared = (
            self._nr_looks > 0
            and box.recording is None
            and box.pace.spare(usage, box.memcg.kmem.limit)
        )
        if spared:
            self._spared.append(box)
        return spared

    def for_room(self, box: Box, nbytes: int, since: float, *, forced: bool) -> Steps[bool]:
        """Count what of *box* may be gone until *nbytes* are; see :meth:`Audit.parts_for`."""

        def look(audit: Audit) -> Steps[bool]:
            return (
                yield from audit.parts_for(
                    nbytes,
                    since,
                    time.monotonic(),
                    lambda: box.prove_tickets(call_is_over),
                    forced=forced,
                )
            )

        # Where there is nothing to look at, nothing is left out.
        return (yield from self._look(box, look, otherwise=box.audit is None))

    def _pace(self, box: Box, before: int, began: float, took: float) -> None:
        now = time.monotonic()
        resting = sum(one.pace.rests_until > now for one in self._boxes())
        if box.recording is not None:
            took = 0.0  # its next peak is looked at, too
        box.pace.looked(before, box.memcg.kmem.usage, began, now, took, resting)
        box.note_peak()

    def _spare_no_more(self) -> None:
        spared, self._spared = self._spared, []
        for box in spared:
            box.withdraw()
            box.pace.spare_no_more()

    def _look(self, box: Box, look: Callable[[Audit], Steps[_T]], otherwise: _T) -> Steps[_T]:
        """Carry out *look*, once nobody else looks at *box*.

        Gives *otherwise* if there is nothing to look at, or the box ends in the middle of it.
        """
        while box.is_looked_at:
            yield box.awaiting
        audit, result = box.audit, otherwise
        if audit is None or box.over:
            return result
        box.withdraw()
        box.is_looked_at = True
        self._nr_looks += 1
        try:
            with box.guard:
                steps = look(audit)
                try:
                    # Once it is over, what a look has found before would be charged to nobody.
                    while box.audit is audit and not box.over:
                        yield next(steps)
                    steps.close()
                except StopIteration as done:
                    result = done.value
        finally:
            box.is_looked_at = False
            self._nr_looks -= 1
            if not self._nr_looks:
                self._spare_no_more()
            self._seen(box)
        return result
