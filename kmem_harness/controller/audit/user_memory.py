"""The part of an audit that follows user memory, where a limit of the memory counter binds it.

User memory grows by page faults, which nothing can refuse: where it does not fit, a process is
killed, as the kernel's OOM killer would. Knows memcgs; which box to look at is its maker's business.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.procfs.readable import is_readable
from kmem_harness.procfs.user_memory import user_memory_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.account.books import Books
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.procfs.processes import BoxProcesses
    from kmem_harness.procfs.steps import Steps

__all__ = ["UserPart"]

#: How long a killed process may take to give its memory back, before another one is killed.
_DYING_SECONDS = 0.5


class UserPart:
    """User memory of one box: charged to memory, never to kmem."""

    #: It looks at no kernel objects.
    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        memcg: Memcg,
        processes: BoxProcesses,
        killed: Callable[[int, int, ResourceCounter], None],
    ) -> None:
        """Follow *processes*; tell *killed* the victim, its bytes, and which counter it met."""
        self._memcg = memcg
        self._processes = processes
        self._killed = killed
        self._charged = 0
        self._dying_until = 0.0

    def count(self, books: Books) -> Steps[None]:
        """See :class:`Part`."""
        del books
        found = yield from user_memory_of((yield from self._processes.list()))
        total = sum(found.values())
        if total <= self._charged:
            self._release(self._charged - total)
            return
        refusal = self._memcg.try_charge_user(total - self._charged)
        if refusal is None:
            self._charged = total
            return
        # What fits is there, too; the limit is a limit.
        margin = min(
            counter.limit - counter.usage for counter in self._memcg.chain if counter.name != "kmem"
        )
        if margin > 0 and self._memcg.try_charge_user(margin) is None:
            self._charged += margin
        yield from self._kill(found, refusal.counter)

    def make_room(self, counter: ResourceCounter) -> Steps[bool]:
        """Kill a process for a kernel allocation that met *counter*; false if there is none."""
        found = yield from user_memory_of((yield from self._processes.list()))
        return (yield from self._kill(found, counter))

    def potential(self, books: Books) -> int:
        """See :class:`Part`."""
        del books
        return self._charged

    def doubts(self) -> list[str]:
        """See :class:`Part`."""
        return []

    def close(self) -> None:
        """See :class:`Part`."""
        self._release(self._charged)

    def _release(self, nbytes: int) -> None:
        if nbytes:
            self._memcg.uncharge_user(nbytes)
            self._charged -= nbytes

    def _kill(self, found: dict[int, int], counter: ResourceCounter) -> Steps[bool]:
        """Kill whoever holds most, unless somebody is dying already."""
        now = time.monotonic()
        if now < self._dying_until:
            return True
        if not found:
            return False
        victim = max(found, key=lambda pid: found[pid])
        with suppress(OSError):
            pidfd = os.pidfd_open(victim)
            try:
                # It was found a while ago: its number may be a stranger's by now.
                of_box = yield from self._processes.list()
                if victim in of_box and not is_readable(pidfd, 0):
                    self._killed(victim, found[victim], counter)
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    self._dying_until = now + _DYING_SECONDS
                    self._memcg.oom_kills += 1
            finally:
                os.close(pidfd)
        return True
