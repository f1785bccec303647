"""Wait for what happens in one activation of a service, as long as that may take. Knows no processes."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Clock", "now"]


def now() -> float:
    """Give the event loop's time. Units: seconds."""
    return asyncio.get_running_loop().time()


class Clock:
    """The one who waits, until the bell rings or the time is over."""

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self._bell = asyncio.Event()
        self._deadline = math.inf

    def ring(self) -> None:
        """Have who waits look again."""
        self._bell.set()

    def extend(self, seconds: float) -> None:
        """Let the present wait last *seconds* from now at least: ``EXTEND_TIMEOUT_USEC=``."""
        self._deadline = max(self._deadline, now() + seconds)
        self.ring()

    async def until(
        self, happened: Callable[[], Any], seconds: float, interrupt: Callable[[], None]
    ) -> bool:
        """Wait until *happened*; false after *seconds*. *interrupt* may raise, at each look."""
        self._deadline = now() + seconds
        while not happened():
            interrupt()
            left = self._deadline - now()
            if left <= 0:
                return False
            self._bell.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._bell.wait(), None if left == math.inf else left)
        return True
