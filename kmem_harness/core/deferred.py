"""Work a kernel puts off: RCU callbacks, worker frees, remote drains (K114).

Steps run at once by default, so that vectors are deterministic; a tree that wants to see the
time between turns ``immediate`` off and steps by hand.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Deferred"]


class Deferred:
    """A queue of named steps, run at once or one by one."""

    __slots__ = ("_queue", "immediate")

    def __init__(self, *, immediate: bool = True) -> None:
        self.immediate = immediate
        self._queue: deque[tuple[str, Callable[[], None]]] = deque()

    @property
    def pending(self) -> tuple[str, ...]:
        """The names of the steps not yet run, in order."""
        return tuple(name for name, _ in self._queue)

    def put_off(self, name: str, step: Callable[[], None]) -> None:
        """Run *step* now, or keep it for later."""
        if self.immediate:
            step()
        else:
            self._queue.append((name, step))

    def step(self) -> str | None:
        """Run the oldest step and return its name; ``None`` if there is none."""
        if not self._queue:
            return None
        name, step = self._queue.popleft()
        step()
        return name

    def settle(self) -> None:
        """Run every step, those included that the steps put off themselves."""
        while self.step() is not None:
            pass
