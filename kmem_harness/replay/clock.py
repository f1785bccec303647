"""Put-off work on a clock: grace periods end as the replayed machine's time passes.

Knows microseconds; knows nothing of what it runs.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kmem_harness.core.deferred import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Clock"]


class Clock(Deferred):
    """A queue whose steps each become due one grace period after they were put off."""

    __slots__ = ("_grace_us", "_timed", "held", "now_us")

    def __init__(self, grace_us: int) -> None:
        super().__init__(immediate=False)
        self.now_us = 0
        self.held = False
        self._grace_us = grace_us
        self._timed: deque[tuple[int, Callable[[], None]]] = deque()

    def put_off(self, name: str, step: Callable[[], None]) -> None:  # noqa: ARG002 - only shown
        """Run *step* when a grace period has passed."""
        self._timed.append((self.now_us + self._grace_us, step))

    def advance(self, microseconds: int) -> None:
        """Let time pass, and run what becomes due unless grace periods are held up."""
        self.now_us += microseconds
        if not self.held:
            self._run_due()

    def _run_due(self) -> None:
        timed = self._timed
        while timed and timed[0][0] <= self.now_us:
            timed.popleft()[1]()

    def settle(self) -> None:
        """Let one grace period after another pass until nothing waits."""
        while self._timed:
            self.now_us += self._grace_us
            self._run_due()
