"""Keep the account of one box: what it was charged, by kind, and what it was refused."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.timeline import Timeline
from kmem_harness.core.errors import AccountingError
from kmem_harness.interposer.census import comm_of, tgid_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.recording import RecordingFile
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.interposer.census import TaskCensus, Tasks
    from kmem_harness.interposer.listener import Listener

__all__ = ["Box", "EventFile", "Kind", "Price", "Ticket"]

#: The report keeps this many cards; an event file has them all.
KEPT_CARDS = 100


class Kind:
    """One kind of kernel object in one box. Units: counts of objects; ``nbytes`` is for each."""

    __slots__ = ("charged", "errno", "errno_name", "live", "live_peak", "name", "nbytes", "refused")

    def __init__(self, name: str, nbytes: int, errno: int, errno_name: str) -> None:
        """Start with nothing charged."""
        self.name = name
        self.nbytes = nbytes
        self.errno = errno
        self.errno_name = errno_name
        self.charged = 0
        self.live = 0
        self.live_peak = 0
        self.refused = 0

    def report(self) -> dict[str, int]:
        """Give the row of the report's ``kinds``."""
        return {
            "charged": self.charged,
            "uncharged": self.charged - self.live,
            "refused": self.refused,
            "live": self.live,
            "live_peak": self.live_peak,
            "bytes_each": self.nbytes,
        }


class Price:
    """What one system call number is charged as."""

    __slots__ = ("arg", "kind", "kind_if_set", "mask", "name", "number", "uncertain")

    def __init__(
        self, name: str, number: int, kind: Kind, arg: int, mask: int, kind_if_set: Kind
    ) -> None:
        """Charge *kind_if_set* where argument *arg* has *mask* set, else *kind*."""
        self.name = name
        self.number = number
        self.kind = kind
        self.arg = arg
        self.mask = mask
        self.kind_if_set = kind_if_set
        # Its flags are in memory: what it made is known only afterwards.
        self.uncertain = name == "clone3"


class Ticket:
    """A clone that was allowed and may not have happened yet."""

    __slots__ = ("kind", "last_child", "number")

    def __init__(self, kind: Kind, number: int, last_child: bytes | None) -> None:
        """Remember what was charged, and the thread's youngest child before the call."""
        self.kind = kind
        self.number = number
        self.last_child = last_child


class EventFile:
    """Append events to a descriptor handed over by the owner, one JSON object a line."""

    def __init__(self, fd: int) -> None:
        """Take over *fd*."""
        self._fd = fd
        self.lost = 0

    def write(self, event: dict[str, Any]) -> None:
        """Append one event; a full disk loses it, which is counted."""
        line = (json.dumps(event) + "\n").encode()
        try:
            if os.write(self._fd, line) != len(line):
                self.lost += 1
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class Box:
    """The account of one container: its charges, its tickets, its refusals.

    The books hold *at least* what is alive: a charge is made before the call, and taken back only
    when a census has shown that the object is not there.
    """

    def __init__(self, name: str, memcg: Memcg, kinds: dict[str, Kind], *, observe: bool) -> None:
        """Open an account under *memcg*; nothing runs yet."""
        self.name = name
        self.memcg = memcg
        self.kinds = kinds
        self.observe = observe
        self.counters = _counters_above(memcg)
        self.prices: dict[int, Price] = {}
        self.tickets: dict[int, Ticket] = {}
        #: One for the first process, and one for each that entered later and is still there.
        self.listeners: list[Listener] = []
        self.census: TaskCensus | None = None
        self.events: EventFile | None = None
        #: The event file once more, where it takes every charge.
        self.recording: RecordingFile | None = None
        self.init_pid = 0
        self.may_have_threads = False
        self.watched = False
        self.ending = False
        self.over = False
        self.notifications = 0
        self.refusals = 0
        self.cards: list[dict[str, Any]] = []
        self.censuses = 0
        self.census_began = 0.0
        self.census_seconds = 0.0
        self.census_last_seconds = 0.0
        self.timeline = Timeline()

    # -- charges ---------------------------------------------------------------------------

    def enter(self, kind: Kind) -> None:
        """Enter one object whose bytes the memcg has just been charged."""
        kind.charged += 1
        kind.live += 1
        kind.live_peak = max(kind.live_peak, kind.live)

    def cancel(self, kind: Kind) -> None:
        """Take back a charge whose call never ran."""
        kind.live -= 1
        self.memcg.uncharge(kind.nbytes)

    def note_usage(self, *, last: bool = False) -> None:
        """Note on the timeline how things stand; called where something rare has happened."""
        live = (kind.live for kind in self.kinds.values())
        self.timeline.note(self.memcg.kmem.usage, self.refusals, live, last=last)

    def unproven_bytes(self) -> int:
        """Sum the charges of clones that may or may not have happened yet."""
        return sum(ticket.kind.nbytes for ticket in self.tickets.values())

    def take_census(self, is_over: Callable[[int, int, bytes | None], bool]) -> None:
        """Find out what is alive and take back what is not.

        *is_over(tid, number, last_child)* proves that a clone is over. It is asked before the
        count begins, so a clone proven over has its child, if it lives, in the count.
        """
        if self.census is None:
            return
        self.census_began = began = time.monotonic()
        for tid in [tid for tid, t in self.tickets.items() if is_over(tid, t.number, t.last_child)]:
            del self.tickets[tid]
        self.reconcile(self.census.count(with_threads=self.may_have_threads))
        self.census_last_seconds = time.monotonic() - began
        self.census_seconds += self.census_last_seconds
        self.censuses += 1
        self.note_usage()

    def reconcile(self, found: Tasks) -> None:
        """Lower the books to what *found* and the open tickets account for; never raise them."""
        task, thread = self.kinds["task"], self.kinds["thread"]
        open_tasks = sum(ticket.kind is task for ticket in self.tickets.values())
        tasks = found.processes + open_tasks
        threads = found.threads + len(self.tickets) - open_tasks
        # A thread made by clone3 was charged as a task, which is at least as dear.
        moved = min(max(threads - thread.live, 0), max(task.live - tasks, 0))
        if moved:
            task.live -= moved
            task.charged -= moved
            thread.live += moved
            thread.charged += moved
            thread.live_peak = max(thread.live_peak, thread.live)
            self.memcg.uncharge(moved * (task.nbytes - thread.nbytes))
        for kind, alive in ((task, tasks), (thread, threads)):
            freed = kind.live - alive
            if freed > 0:
                kind.live = alive
                self.memcg.uncharge(freed * kind.nbytes)

    def take_final_census(self) -> None:
        """Count once more when no clone can be under way: every ticket is over."""
        self.take_census(lambda *_: True)

    def close_books(self) -> None:
        """Take back everything: the last task of the box is gone.

        Raises: AccountingError if a kind holds less than nothing.
        """
        self.over = True
        self.tickets.clear()
        for kind in self.kinds.values():
            if kind.live < 0:
                message = f"box {self.name} holds {kind.live} objects of kind {kind.name}"
                raise AccountingError(message)
            self.memcg.uncharge(kind.live * kind.nbytes)
            kind.live = 0
        self.note_usage(last=True)

    # -- refusals --------------------------------------------------------------------------

    def refused(
        self, price: Price, kind: Kind, by: ResourceCounter, caller: tuple[int, int, str] | None
    ) -> dict[str, Any]:
        """Count a refusal and write its card, with the counters as they stood when it was made.

        *caller* is (pid, tid, comm), or ``None`` where no card is kept.
        """
        self.refusals += 1
        kind.refused += 1
        self.note_usage()
        if caller is None:
            return {}
        pid, tid, comm = caller
        card = {
            "time": time.time(),
            "box": self.name,
            "pid": pid,
            "tid": tid,
            "comm": comm,
            "syscall": price.name,
            "kind": kind.name,
            "nbytes": kind.nbytes,
            "errno": kind.errno_name,
            "memcg": self.memcg.path,
            "refused_by": by.memcg.path if by.memcg else "/",
            "counter": by.name,
            "usage": by.usage,
            "limit": by.limit,
            "live": {one.name: one.live for one in self.kinds.values() if one.live},
        }
        if len(self.cards) < KEPT_CARDS:
            self.cards.append(card)
        if self.events is not None:
            self.events.write({"event": "charge.refused", **card})
        return card

    def caller(self, tid: int) -> tuple[int, int, str] | None:
        """Say who *tid* is, while it still waits, where a card of its refusal will be kept."""
        if len(self.cards) >= KEPT_CARDS and self.events is None and not self.watched:
            return None
        return tgid_of(tid), tid, comm_of(tid)

    def report(self) -> dict[str, Any]:
        """Give this box's part of the report; counters are the memcg's own business."""
        return {
            "mode": "observe" if self.observe else "enforce",
            "kinds": {kind.name: kind.report() for kind in self.kinds.values()},
            "refusals": {
                "total": self.refusals,
                "first": self.cards[0] if self.cards else None,
                "cards": self.cards,
            },
            "notifications": self.notifications,
            "census": {"count": self.censuses, "seconds": round(self.census_seconds, 6)},
            "events_lost": self.events.lost if self.events else 0,
            "timeline": self.timeline.report(self.kinds),
        }

    def survey(self) -> dict[str, Any]:
        """Say shortly how the box is doing, for whoever looks at all of them."""
        return {
            "box": self.name,
            "init_pid": self.init_pid,
            "mode": "observe" if self.observe else "enforce",
            "calls": self.notifications,
            "refused": self.refusals,
            "kinds": {
                kind.name: {
                    "live": kind.live,
                    "nbytes": kind.live * kind.nbytes,
                    "refused": kind.refused,
                }
                for kind in self.kinds.values()
                if kind.live or kind.refused
            },
        }

    def release(self) -> None:
        """Close every descriptor held for the box."""
        for held in (*self.listeners, self.census, self.events):
            if held is not None:
                with suppress(OSError):
                    held.close()
        self.listeners.clear()
        self.census = self.events = self.recording = None


def _counters_above(memcg: Memcg) -> tuple[ResourceCounter, ...]:
    """List the counters that a charge of *memcg* walks, the nearest first."""
    found: list[ResourceCounter] = []
    for start in (memcg.kmem, memcg.memory):
        counter: ResourceCounter | None = start
        while counter is not None:
            found.append(counter)
            counter = counter.parent
    return tuple(found)
