"""One box that runs: its account, the way to its processes, and who else is in there.

Knows one box; ``boxes.py`` knows them all, and when what happens.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.procfs.entrants import entrants, filters_of, pid_inside, shares_pid_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.guard import Guard
    from kmem_harness.controller.lifecycle.last_words import Legacy
    from kmem_harness.controller.lifecycle.runtime_handshake import RuntimeHandshake
    from kmem_harness.controller.lifecycle.shim_handshake import Handshake
    from kmem_harness.controller.loop import Timer
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.core.errors import ShimError
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.interposer.filter import FilterPlan

__all__ = ["Running", "memcg_report"]


class Running:
    """One box: its account, and the way to its processes."""

    def __init__(
        self, box: Box, guard: Guard, isolation: str, *, filtered: bool, lasting: bool
    ) -> None:
        self.box = box
        #: Whatever is done for it is done under this.
        self.guard = guard
        self.isolation = isolation
        self.filtered = filtered
        #: Whether its calls are charged, so that limits bind it.
        self.bounded = filtered
        #: Whether it is a container: started again and entered as its engine likes.
        self.lasting = lasting
        self.handshake: Handshake | RuntimeHandshake | None = None
        self.plan: FilterPlan | None = None
        #: Told once the box is under its filter, or why it never will be.
        self.when_started: list[Callable[[ShimError | None], None]] = []
        self.init_pidfd = -1
        self.target_pidfd = -1
        self.filter_flags = 0
        #: How many filters bind whoever is under ours.
        self.filters = 0
        #: Processes that were made outside, and so are not charged: pids as the box numbers them.
        self.outsiders: set[str] = set()
        #: pidfds of those that joined.
        self.joined: set[int] = set()
        #: What tells how many System V objects there are in it; of a local box, before its audit.
        self.system_v: tuple[int, ...] = ()
        self.legacy: Legacy | None = None
        #: Called when the last task has gone, or *patience* is over.
        self.when_over: Callable[[], None] | None = None
        self.patience: Timer | None = None

    # -- who else is in there --------------------------------------------------------------

    def may_join(self, pid: int) -> bool:
        """Say whether a process that nobody announced is an exec into this container.

        Whoever came from inside is under our filter, and no process ever loses one.
        """
        if not self.box.listeners or self.box.ending:
            return False
        with suppress(OSError):
            return 0 <= filters_of(pid) < self.filters and shares_pid_namespace(
                pid, self.box.init_pid
            )
        return False

    def let_join(self, pid: int) -> None:
        """Take a process that entered for what it is, until it dies. Raises: OSError."""
        inside = pid_inside(pid)
        pidfd = os.pidfd_open(pid)

        def died(_: int) -> None:
            self.outsiders.discard(inside)  # its number may be given out again
            self.forget_joined(pidfd)

        self.outsiders.add(inside)
        self.joined.add(pidfd)
        self.guard.watch(pidfd, died)

    def forget_joined(self, pidfd: int) -> None:
        """Watch it no longer."""
        self.joined.discard(pidfd)
        self.guard.forget(pidfd)
        os.close(pidfd)

    def entrants(self) -> list[dict[str, Any]]:
        """List the processes that are under no filter of ours."""
        if not self.box.listeners:
            return []
        return [
            {"pid": one.pid, "inside": one.inside, "comm": one.comm}
            for one in entrants(self.box.init_pid, self.filters)
            # The target of an init of the engine's is the first to join.
            if str(one.inside) not in self.outsiders
        ]

    def describe(self) -> dict[str, Any]:
        """Give the figures so far, as a reply carries them."""
        return {
            "filtered": self.filtered,
            "filter_flags": self.filter_flags,
            "rejected_handshakes": self.handshake.rejected if self.handshake else 0,
            "report": {**self.box.report(), "memcg": memcg_report(self.box.memcg)},
        }


def memcg_report(memcg: Memcg) -> dict[str, Any]:
    """Give the report's ``memcg``. Units: bytes; a limit of -1 is none."""
    return {
        "path": memcg.path,
        "kmem": _counter_report(memcg.kmem),
        "memory": _counter_report(memcg.memory),
    }


def _counter_report(counter: ResourceCounter) -> dict[str, int]:
    return {
        "limit": -1 if counter.unlimited else counter.limit,
        "usage": counter.usage,
        "max_usage": counter.max_usage,
        "failcnt": counter.failcnt,
    }
