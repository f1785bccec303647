"""What is done again and again while boxes run: timelines, page faults.

Knows the loop and the looks; knows nothing of how boxes start and end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.procfs.steps import timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.admission.censuses import Censuses
    from kmem_harness.controller.loop import Loop, Timer

__all__ = ["Rounds"]

#: Running boxes are looked at this often for their timelines, unless that takes long: a hundredth
#: of the time at most.
_LOOK_SECONDS = 0.1
_LOOK_REST = 100.0
#: Where a limit binds user memory, this often: a fifth of the time at most.
_FAULTS_SECONDS = 0.01
_FAULTS_REST = 4.0


class Rounds:
    """The timers of all boxes. Each runs only as long as there is anything for it to do."""

    def __init__(self, loop: Loop, censuses: Censuses, boxes: Callable[[], Iterable[Box]]) -> None:
        """Look after *boxes* by *censuses*."""
        self._loop = loop
        self._censuses = censuses
        self._boxes = boxes
        self._looking = False
        #: Of each box whose faults are followed, when it is looked at next.
        self._faults_due: dict[Box, Timer] = {}

    def keep_looking(self) -> None:
        """Note what the boxes use, from now on, for as long as any runs."""
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_SECONDS, lambda: self._loop.spawn(self._look()))

    def follow_faults(self, box: Box, pause: float = 0.0) -> None:
        """Look often where a limit binds user memory: faults come unasked, and take what they like."""
        self.forget(box)
        if box.user is not None:
            self._faults_due[box] = self._loop.call_later(
                pause, lambda: self._loop.spawn(self._follow(box))
            )

    def forget(self, box: Box) -> None:
        """Leave nothing to come for a box that is over, or starts once more."""
        timer = self._faults_due.pop(box, None)
        if timer is not None:
            timer.cancel()

    def _follow(self, box: Box) -> Iterator[Any]:
        timer = self._faults_due.get(box)
        if box.user is not None and timer is not None:
            took = yield from self._censuses.follow_user_memory(box, box.user)
            if self._faults_due.get(box) is timer:
                self.follow_faults(box, max(_FAULTS_SECONDS, took * _FAULTS_REST))

    def _look(self) -> Iterator[Any]:
        running = [box for box in self._boxes() if box.listeners]
        took: list[float] = []
        for box in running:
            yield from timed(self._censuses.note(box), took.append)
        self._looking = False
        if running:
            wide = min(box.timeline.slot_seconds for box in running)
            self._looking = True
            self._loop.call_later(
                max(_LOOK_SECONDS, wide, sum(took) * _LOOK_REST),
                lambda: self._loop.spawn(self._look()),
            )
