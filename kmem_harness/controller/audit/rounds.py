"""What is done again and again while boxes run: calls that wait, timelines, page faults.

Knows the loop and the gate; knows nothing of how boxes start and end.
"""

from __future__ import annotations

import time
from os import sched_yield
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.admission.gate import Gate
    from kmem_harness.controller.loop import Loop, Timer

__all__ = ["Rounds"]

#: A parked call is looked at again this often.
_TICK_SECONDS = 0.001
#: Running boxes are looked at this often for their timelines, unless that takes long: a hundredth
#: of the time at most.
_LOOK_SECONDS = 0.1
_LOOK_REST = 100.0
#: Where a limit binds user memory, this often: a fifth of the time at most.
_FAULTS_SECONDS = 0.01
_FAULTS_REST = 4.0
#: So long a count of one box may keep the others waiting.
_BREATH_SECONDS = 0.000_05
#: Meanwhile others get our processor for a fifth of the time at most.
_YIELD_REST = 4.0


class Rounds:
    """The timers of all boxes. Each runs only as long as there is anything for it to do."""

    def __init__(self, loop: Loop, gate: Gate, boxes: Callable[[], Iterable[Box]]) -> None:
        """Look after *boxes*, whose calls *gate* answers."""
        self._loop = loop
        self._gate = gate
        self._boxes = boxes
        self._tick_due: Timer | None = None
        self._is_soon = False
        self._looking = False
        #: Of each box whose faults are followed, when it is looked at next.
        self._faults_due: dict[Box, Timer] = {}
        self._breath_due = 0.0
        self._yield_due = 0.0

    def keep_ticking(self) -> None:
        """Look again and again at the calls that wait, for as long as any does.

        At those that came in the middle of something else, once that is done.
        """
        soon = self._gate.waiting is not None
        if self._tick_due is not None:
            if self._is_soon or not soon:
                return
            self._tick_due.cancel()
        self._is_soon = soon
        self._tick_due = self._loop.call_later(0 if soon else _TICK_SECONDS, self._tick)

    def breathe(self, box: Box) -> None:
        """Answer calls of other boxes between two steps of what may take long for *box*."""
        began = time.monotonic()
        if self._gate.waiting is None and began >= self._breath_due:
            self._gate.waiting = box
            try:
                if began >= self._yield_due and not self._loop.is_crowd:
                    self._give_way(began)
                self._loop.glance()
            finally:
                self._gate.waiting = None
            end = time.monotonic()
            self._gate.away_seconds += end - began
            self._breath_due = end + _BREATH_SECONDS

    def _give_way(self, began: float) -> None:
        """Let those run who wait for our processor: outside a crowd they were woken there."""
        sched_yield()
        end = time.monotonic()
        self._yield_due = end + (end - began) * _YIELD_REST

    def keep_looking(self) -> None:
        """Note what the boxes use, from now on, for as long as any runs."""
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_SECONDS, self._look)

    def follow_faults(self, box: Box) -> None:
        """Look often where a limit binds user memory: faults come unasked, and take what they like."""
        self.forget(box)
        if box.user is not None:
            began = time.monotonic()
            box.withdraw()
            box.user.count(box.books)
            box.note_usage()
            pause = max(_FAULTS_SECONDS, (time.monotonic() - began) * _FAULTS_REST)
            self._faults_due[box] = self._loop.call_later(pause, lambda: self._follow_on(box))

    def forget(self, box: Box) -> None:
        """Leave nothing to come for a box that is over, or starts once more."""
        timer = self._faults_due.pop(box, None)
        if timer is not None:
            timer.cancel()

    def _follow_on(self, box: Box) -> None:
        with box.guard:
            self.follow_faults(box)

    def _tick(self) -> None:
        self._tick_due = None
        self._gate.retry_parked(self.breathe)
        if self._gate.parked:
            self.keep_ticking()

    def _look(self) -> None:
        began = time.monotonic()
        running = [box for box in self._boxes() if box.listeners]
        for box in running:
            self._gate.look(box)
        self._looking = bool(running)
        if running:
            wide = min(box.timeline.slot_seconds for box in running)
            took = time.monotonic() - began
            self._loop.call_later(max(_LOOK_SECONDS, wide, took * _LOOK_REST), self._look)
