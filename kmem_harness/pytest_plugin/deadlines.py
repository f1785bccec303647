"""End containers that run too long. A debugger stops the clock."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Deadline", "pause_all", "resume_all"]

_running: list[Deadline] = []


class Deadline:
    """Call something once a time has passed, not counting pauses. Units: seconds."""

    def __init__(self, seconds: float, when_over: Callable[[], None]) -> None:
        """Start the clock; *when_over* is called in a thread of its own."""
        self._left = seconds
        self._when_over = when_over
        self._timer: threading.Timer | None = None
        self._began = 0.0
        _running.append(self)
        self.resume()

    def resume(self) -> None:
        """Let the clock go on."""
        self._began = time.monotonic()
        self._timer = threading.Timer(self._left, self._when_over)
        self._timer.daemon = True
        self._timer.start()

    def pause(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            # A moment is left in any case: what is over while we pause ends at the next step.
            self._left = max(self._left - (time.monotonic() - self._began), 0.01)

    def cancel(self) -> None:
        """Stop the clock for good."""
        self.pause()
        if self in _running:
            _running.remove(self)


def pause_all() -> None:
    """Stop all clocks of this process."""
    for deadline in _running:
        deadline.pause()


def resume_all() -> None:
    """Let them go on."""
    for deadline in _running:
        deadline.resume()
