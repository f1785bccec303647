"""Keep the account of one box: what it was charged, by kind, and what it was refused."""

from __future__ import annotations

import json
import os
import stat
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.account.books import Books
from kmem_harness.controller.account.holders import top_holders
from kmem_harness.controller.account.pace import Pace
from kmem_harness.controller.account.timeline import Timeline
from kmem_harness.controller.admission.prices import Prices
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.procfs.census import comm_of, tgid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from kmem_harness.controller.account.books import Charge, Kind
    from kmem_harness.controller.account.recording import RecordingFile
    from kmem_harness.controller.admission.fault_rules import Injection
    from kmem_harness.controller.admission.restarts import Restarts
    from kmem_harness.controller.audit.audit import Audit
    from kmem_harness.controller.audit.descriptors import DescriptorPart
    from kmem_harness.controller.audit.looks import Asker
    from kmem_harness.controller.audit.names import NamePart
    from kmem_harness.controller.audit.spaces import SpacePart
    from kmem_harness.controller.audit.tasks import TaskPart
    from kmem_harness.controller.audit.user_memory import UserPart
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.interposer.listener import Listener
    from kmem_harness.procfs.steps import Steps

__all__ = ["Box", "EventFile", "nothing"]

#: The report keeps this many cards; an event file has them all.
KEPT_CARDS = 100
#: What a thread's children have beyond their price is looked up again after so long, or after so many
#: times as long as that took.
_FORK_SECONDS = 0.05
_FORK_REST = 4.0
#: These kinds are in every report; others where there were any.
_ALWAYS_REPORTED = ("task", "thread")


class EventFile:
    """Append events to a descriptor handed over by the owner, one JSON object a line."""

    def __init__(self, fd: int) -> None:
        """Take over *fd*."""
        self._fd = _never_waiting(fd)
        self.lost = 0

    def write(self, event: dict[str, Any]) -> None:
        """Append one event; a full disk, or a reader that does not read, loses it: it is counted."""
        line = (json.dumps(event) + "\n").encode()
        try:
            if os.write(self._fd, line) != len(line):
                self.lost += 1
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def _never_waiting(fd: int) -> int:
    """Give a descriptor of the same file, whose reader cannot keep us: every box waits for us.

    Takes over *fd*. Not O_NONBLOCK on it: others, such as the owner, share what it stands for.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        os.close(fd)
        reason = "events go to a file, a named pipe or a terminal that can be opened for writing"
        raise ConfigurationError(f"{reason}: {error.strerror}") from error
    os.close(fd)
    return own


class Box:
    """The account of one container: its books, its audit, its refusals."""

    def __init__(self, name: str, memcg: Memcg, kinds: dict[str, Kind], *, observe: bool) -> None:
        """Open an account under *memcg*; nothing runs yet."""
        self.name = name
        self.memcg = memcg
        self.books = Books(memcg, kinds)
        self.kinds = self.books.kinds
        self.tickets = self.books.tickets
        self.observe = observe
        self.counters = _counters_above(memcg)
        self.prices = Prices()
        #: One for the first process, and one for each that entered later and is still there.
        self.listeners: list[Listener] = []
        #: Whoever does something for several boxes does it under the guard of each.
        self.guard: AbstractContextManager[bool | None] = nullcontext()
        #: Whether it is looked at: then nothing is charged to it, and what waits for that waits here.
        self.is_looked_at = False
        self.awaiting: list[Iterator[object]] = []
        #: Called before its counters change by anything but a call: nobody else may charge it then.
        self.withdraw: Callable[[], None] = nothing
        #: What looks at its processes, from the start on; the rest are parts of it.
        self.audit: Audit | None = None
        self.tasks: TaskPart | None = None
        self.spaces: SpacePart | None = None
        self.names: NamePart | None = None
        self.descriptors: DescriptorPart | None = None
        self.user: UserPart | None = None
        self.events: EventFile | None = None
        #: The event file once more, where it takes every charge.
        self.recording: RecordingFile | None = None
        #: What fails calls on purpose, ``None`` without fault rules.
        self.faults: Injection | None = None
        #: Who answers calls that are never charged, by number: given their listener and notification.
        self.asked: dict[int, Callable[[Listener, tuple[int, ...]], None]] = {}
        #: Calls that were over before we saw them: a signal ended them, or their caller.
        self.vanished = 0
        #: Keeps signals from failing calls of its tasks, while it runs under a filter.
        self.restarts: Restarts | None = None
        #: By whom looks at what it chose are asked for, while it runs.
        self.asker: Asker | None = None
        self.init_pid = 0
        self.watched = False
        self.ending = False
        self.over = False
        #: Whether the controller has ended it, for it failed at something.
        self.given_up = False
        self.notifications = 0
        self.refusals = 0
        #: Calls of those that the end of the box was about to kill: nobody answers them.
        self.unanswered = 0
        #: Who refused, and by which counter, beyond the cards that are kept, too.
        self.refusers: dict[str, dict[str, int]] = {}
        self.cards: list[dict[str, Any]] = []
        #: Which new peaks are looked at.
        self.pace = Pace(time.monotonic())
        #: The highest usage that a look has confirmed, and who held most then.
        self.peak: dict[str, Any] = {"usage": 0, "holders": []}
        self.timeline = Timeline()
        self._doubts: dict[str, None] = {}
        self._looks = 0
        self._look_seconds = 0.0
        self._forks: dict[int, tuple[float, Charge, Charge]] = {}

    # -- charges ---------------------------------------------------------------------------

    def let_run(self, listener: Listener, notification_id: int, tid: int, charge: Charge) -> None:
        """Let a call run that its memcg has just been charged for."""
        self.enter(charge)
        if listener.allow(notification_id):
            self.tickets[tid] = charge
            if self.recording is not None:
                self.recording.made(tid, charge)
        else:
            self.books.cancel(charge)

    def enter(self, charge: Charge, nr_calls: int = 1) -> None:
        """Enter in the books what the memcg has just been charged for so many calls."""
        self.books.enter(charge, nr_calls)
        if charge.may_make_thread and self.tasks is not None:
            self.tasks.with_threads = True

    def known_fork(self, charge: Charge, tid: int, now: float) -> Charge | None:
        """Give what *charge* comes to for *tid*, whose address space its child will have, too.

        ``None`` if that has to be looked up first, by :meth:`learn_fork`.
        """
        if self.spaces is None:
            return charge
        known = self._forks.get(tid)
        return known[2] if known is not None and now < known[0] and known[1] is charge else None

    def learn_fork(self, charge: Charge, tid: int) -> Steps[Charge]:
        """Look up what *charge* comes to for *tid*, and remember it for a while."""
        if self.spaces is None:
            return charge
        began = time.monotonic()
        excess = yield from self.spaces.excess_of(tid)
        more = tuple(
            (self.kinds[name], nr) for name, nr in excess.items() if nr and name in self.kinds
        )
        whole = charge.with_more(more) if more else charge
        if len(self._forks) >= KEPT_CARDS:
            self._forks.clear()
        now = time.monotonic()
        until = now + max(_FORK_SECONDS, (now - began) * _FORK_REST)
        self._forks[tid] = (until, charge, whole)
        return whole

    def learned_fork(self, tid: int) -> tuple[float, Charge, Charge] | None:
        """Give what is remembered of it: until when, of which charge, and what that comes to."""
        return self._forks.get(tid)

    def watch_names(
        self,
        tid: int,
        charge: Charge,
        notification: tuple[int, ...],
        later: Callable[[], object],
    ) -> bool:
        """Keep an eye on what a call is about to make or remove on a file system.

        False if that takes long: the call has to wait until *later* is called.
        """
        return self.names is None or self.names.watch(tid, charge, notification, later)

    def table_grows(self, pid: int) -> None:
        """Keep an eye on a process whose table of descriptors is about to grow."""
        if self.spaces is not None:
            self.spaces.table_grew(pid)

    @property
    def is_quick_to_look_at(self) -> bool:
        """Whether a look at all of it keeps nobody waiting."""
        return self.audit is None or self.audit.is_quick

    def note_peak(self) -> None:
        """Remember who held most, where a look has just confirmed a higher usage than any before."""
        if self.memcg.kmem.usage > self.peak["usage"]:
            self._note_peak(self.holders())

    def _note_peak(self, holders: list[dict[str, Any]]) -> None:
        self.peak = {"usage": self.memcg.kmem.usage, "holders": holders}

    def note_usage(self, *, last: bool = False) -> None:
        """Note on the timeline how things stand; called where something rare has happened."""
        live = (kind.live for kind in self.kinds.values())
        self.timeline.note(self.memcg.kmem.usage, self.refusals, live, last=last)

    def prove_tickets(self, is_over: Callable[[int, int, bytes | None], bool]) -> Steps[None]:
        """Drop the tickets of calls that are over.

        *is_over(tid, number, last_child)* proves that a call is over. It is asked before anything
        is counted, so what such a call made, if it lives, is in the count.
        """
        for tid, charge in list(self.tickets.items()):
            if is_over(tid, charge.number, charge.last_child):
                self.tickets.pop(tid, None)
            yield

    def close_books(self) -> None:
        """Take back everything: the last task of the box is gone. Raises: AccountingError."""
        self.over = True
        self.books.close(self.name)
        if self.user is not None:
            self.user.close()
        self.note_usage(last=True)

    # -- refusals --------------------------------------------------------------------------

    def refused(
        self, charge: Charge, by: ResourceCounter, caller: tuple[int, int, str] | None
    ) -> dict[str, Any]:
        """Count a refusal and write its card, with the counters as they stood when it was made.

        *caller* is (pid, tid, comm), or ``None`` where no card is kept.
        """
        self.count_refusal(by.memcg.path if by.memcg else "/", by.name)
        kind = charge.parts[0][0]
        kind.refused += 1
        self.note_usage()
        if caller is None:
            return {}
        pid, tid, comm = caller
        card = {
            "pid": pid,
            "tid": tid,
            "comm": comm,
            "syscall": charge.syscall,
            "kind": kind.name,
            "nbytes": charge.nbytes,
            "errno": kind.errno_name,
            **self._where(by),
        }
        self.keep(card)
        return card

    def oom_killed(self, pid: int, nbytes: int, by: ResourceCounter) -> dict[str, Any]:
        """Count a task that is killed because user memory met *by*, and write its card."""
        self.count_refusal(by.memcg.path if by.memcg else "/", by.name)
        self.note_usage()
        card = {
            "pid": pid,
            "tid": pid,
            "comm": comm_of(pid),
            "syscall": "page fault",
            "kind": "user-memory",
            "nbytes": nbytes,
            "errno": "OOM",
            **self._where(by),
        }
        self.keep(card)
        return card

    def pids_refused(self, most: int, refused: int) -> dict[str, Any]:
        """Count the forks that the kernel's own bound on tasks refused, and write one card for all.

        The kernel tells how many there were, and nothing of whose they were, or when. Units: tasks.
        """
        self.count_refusal("pids.max", "pids", refused)
        self.kinds["task"].refused += refused
        self.note_usage()
        card = {
            "pid": 0,
            "tid": 0,
            "comm": "",
            "syscall": "clone",
            "kind": "task",
            "nbytes": 0,
            "errno": "EAGAIN",
            "time": time.time(),
            "box": self.name,
            "memcg": self.memcg.path,
            "refused_by": "pids.max",
            "counter": "pids",
            "usage": most,
            "limit": most,
            "live": {one.name: one.live for one in self.kinds.values() if one.live},
        }
        self.keep(card)
        return card

    def count_refusal(self, memcg: str, counter: str, nr: int = 1) -> None:
        """Count refusals by a counter of the memcg at that path, or by a fault rule."""
        self.refusals += nr
        counts = self.refusers.setdefault(memcg, {})
        counts[counter] = counts.get(counter, 0) + nr

    def _where(self, by: ResourceCounter) -> dict[str, Any]:
        """Say which counter refused, and how things stood."""
        return {
            "time": time.time(),
            "box": self.name,
            "memcg": self.memcg.path,
            "refused_by": by.memcg.path if by.memcg else "/",
            "counter": by.name,
            "usage": by.usage,
            "limit": by.limit,
            "live": {one.name: one.live for one in self.kinds.values() if one.live},
        }

    def holders(self) -> list[dict[str, Any]]:
        """Name the processes that held most when descriptors were looked at last."""
        if self.over or self.descriptors is None:
            return []
        return top_holders(self.descriptors.held, self.kinds)

    def keep(self, card: dict[str, Any]) -> None:
        """Keep a refusal's card: in the report while there is room, in the event file always."""
        kept = len(self.cards) < KEPT_CARDS
        card["holders"] = self.holders() if kept else []
        if kept:
            if self.memcg.kmem.usage > self.peak["usage"]:
                self._note_peak(card["holders"])
            self.cards.append(card)
        if self.events is not None:
            self.events.write({"event": "charge.refused", **card})

    def doubt(self, sentence: str) -> None:
        """Say in the report why its figures may not be all there is."""
        self._doubts[sentence] = None

    def caller(self, tid: int) -> tuple[int, int, str] | None:
        """Say who *tid* is, while it still waits, where a card of its refusal will be kept."""
        if len(self.cards) >= KEPT_CARDS and self.events is None and not self.watched:
            return None
        return tgid_of(tid), tid, comm_of(tid)

    def report(self) -> dict[str, Any]:
        """Give this box's part of the report; counters are the memcg's own business."""
        looks, seconds = self._looks, self._look_seconds
        doubts: list[str] = []
        if self.audit is not None:
            looks, seconds = looks + self.audit.count, seconds + self.audit.seconds
            doubts = self.audit.doubts()
        if self.restarts is not None:
            doubts = [*doubts, *self.restarts.doubts()]
        return {
            "mode": self._mode(),
            "kinds": {
                kind.name: kind.report()
                for kind in self.kinds.values()
                if kind.charged or kind.refused or kind.injected or kind.name in _ALWAYS_REPORTED
            },
            "refusals": {
                "total": self.refusals,
                "first": self.cards[0] if self.cards else None,
                "cards": self.cards,
                "by": self.refusers,
            },
            "notifications": self.notifications,
            "interrupted": self.interrupted,
            "census": {"count": looks, "seconds": round(seconds, 6)},
            **({"unanswered": self.unanswered} if self.unanswered else {}),
            "partial": [*dict.fromkeys([*self._doubts, *doubts])],
            "events_lost": self.events.lost if self.events else 0,
            "holders": self.holders(),
            "peak": self.peak,
            **({"given_up": True} if self.given_up else {}),
            "timeline": self.timeline.report(self.kinds),
            **({} if self.faults is None else {"faults": self.faults.report()}),
        }

    @property
    def interrupted(self) -> int:
        """Count the calls that ended before we saw them, and that nobody made start over."""
        restarted = 0 if self.restarts is None else self.restarts.restarted
        return max(self.vanished - restarted, 0)

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

    def end_audit(self) -> None:
        """Look no more: the processes that were looked at are gone."""
        if self.audit is not None:
            self._looks += self.audit.count
            self._look_seconds += self.audit.seconds
            self._doubts = dict.fromkeys([*self._doubts, *self.audit.doubts()])
            self.audit.close()
        self.audit = self.tasks = self.spaces = self.names = self.descriptors = self.user = None
        self._forks.clear()

    def _mode(self) -> str:
        if self.faults is not None and not self.prices.names:
            return "inject"  # its calls are failed by rule, and not charged
        return "observe" if self.observe else "enforce"

    def release(self) -> None:
        """Close every descriptor held for the box."""
        for held in (*self.listeners, self.events):
            if held is not None:
                with suppress(OSError):
                    held.close()
        self.end_audit()
        if self.restarts is not None:
            self.restarts.close()
        self.asked = {}
        self.listeners.clear()
        self.events = self.recording = None
        self.prices = Prices()  # some tell the box of what they see: it would never be let go


def nothing() -> None:
    """Do nothing about it."""


def _counters_above(memcg: Memcg) -> tuple[ResourceCounter, ...]:
    """List the counters that a charge of *memcg* walks, the nearest first."""
    found: list[ResourceCounter] = []
    for start in (memcg.kmem, memcg.memory):
        counter: ResourceCounter | None = start
        while counter is not None:
            found.append(counter)
            counter = counter.parent
    return tuple(found)
