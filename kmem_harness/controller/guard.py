"""Contain mistakes: what fails while it is done for one box ends that box, and no other.

Knows the loop and how to end a box; knows nothing of what is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import TracebackType

    from kmem_harness.controller.loop import Loop, Timer

__all__ = ["Guard"]


class Guard:
    """Everything that is done for one box: calls, looks, timers, files, its end.

    A context manager, not for the box's own thread of calls alone: whoever looks at several boxes
    enters the guard of each. For what belongs to one box it is the loop, too. Lack of memory is a
    matter of all boxes, and passes.
    """

    def __init__(self, loop: Loop, give_up: Callable[[Exception], None]) -> None:
        """Have *give_up* end the box, with what failed."""
        self._loop = loop
        self._give_up = give_up

    def __enter__(self) -> None:
        """Begin something for this box."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """End the box if that failed by a mistake; then go on with the next thing."""
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            return False
        self._give_up(error)
        return True

    def watch(self, fd: int, handler: Callable[[int], None]) -> None:
        """See :meth:`Loop.watch`."""
        self._loop.watch(fd, lambda events: self._do(lambda: handler(events)))

    def forget(self, fd: int) -> None:
        """See :meth:`Loop.forget`."""
        self._loop.forget(fd)

    def rest(self, listening: socket.socket, handler: Callable[[int], None]) -> None:
        """See :meth:`Loop.rest`."""
        self._loop.rest(listening, lambda events: self._do(lambda: handler(events)))

    def call_later(self, seconds: float, action: Callable[[], object]) -> Timer:
        """See :meth:`Loop.call_later`."""
        return self._loop.call_later(seconds, lambda: self._do(action))

    def _do(self, action: Callable[[], object]) -> None:
        with self:
            action()
