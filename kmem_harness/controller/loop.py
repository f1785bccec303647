"""Wait for many descriptors in one thread, and do long jobs in between. Knows nothing of memcgs."""

from __future__ import annotations

import errno
import heapq
import itertools
import select
import time
from collections import deque
from os import sched_yield
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

__all__ = ["HANGUP", "OUT_OF_DESCRIPTORS", "READABLE", "Loop", "Timer"]

READABLE = select.POLLIN
HANGUP = select.POLLHUP | select.POLLERR
#: What accept says when we may open nothing more: whoever waits goes on waiting.
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REST_SECONDS = 0.1
#: At one of so many turns it is looked how many listeners wait beside the one just served. Two make
#: a crowd, and none is the end of it, once so many looks more have found that than the contrary.
#: Beside a single one, callers are better off on our processor: it may be a bomb, which fills the
#: others.
_LOOK_TURNS = 32
_CROWD = 2
_SURE_LOOKS = 8
#: After so many turns somebody is told that there is much to do.
_BUSY_TURNS = 128
#: So long a job may keep everybody waiting; between two such times they get our processor, too, for a
#: fifth of the time at most.
_JOB_SECONDS = 0.000_05
_YIELD_REST = 4.0
#: So many such times a job has in a row: most are over then, and what waits for one waits for no others.
_JOB_TURNS = 40


class Waking(Protocol):
    """A listener, as far as the loop knows it."""

    fd: int
    #: Calls that were taken already.
    handed: list[tuple[int, ...]]

    def wake_apart(self, *, apart: bool) -> None:
        """Wake them on their own processors, or on ours."""


class Waiting(Protocol):
    """What waits instead of us, and answers what it can meanwhile."""

    #: The listener answered last, when it last waited; -1 for none.
    last_fd: int

    def watch(self, listener: Any) -> None:
        """Wait for *listener*, too."""

    def forget(self, fd: int) -> None:
        """Wait for it no more."""

    def wait(self, patience_ms: float | None) -> list[tuple[int, int]]:
        """Wait as ``poll`` does."""


_Waiting = TypeVar("_Waiting", bound=Waiting)


class Timer:
    """An action to come."""

    __slots__ = ("_action",)

    def __init__(self, action: Callable[[], object]) -> None:
        """Hold *action*."""
        self._action: Callable[[], object] | None = action

    def run(self) -> None:
        """Do it, if it was not cancelled."""
        if self._action is not None:
            self._action()

    def cancel(self) -> None:
        """Do nothing when the time comes, and let go at once of all that the action knows."""
        self._action = None


class Loop:
    """One poll loop with timers.

    poll, not epoll, for listeners: one wakes whoever polls it on the caller's own CPU
    (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), and an epoll set in between loses that. Measured side by
    side, a supervised fork took 1.3 times as long with epoll. All else is in an epoll set, which
    is one more descriptor to poll and not four for each box.

    To share one processor is right for one caller and its answers, which wait for each other, and
    wrong for many callers: they would all gather on ours. So listeners are told whether they are a
    crowd.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._poll = select.poll()
        self._others = select.epoll()
        self._poll.register(self._others, READABLE)
        self._listeners: dict[int, Waking] = {}
        #: Whether so many listeners call at once that each is woken on a processor of its own.
        self.is_crowd = False
        self._crowd_looks = 0
        self._handlers: dict[int, Callable[[int], None]] = {
            self._others.fileno(): lambda _: self._dispatch(self._others.poll(0))
        }
        self._fresh: set[int] = set()
        self._jobs: deque[Iterator[Any]] = deque()
        self._job_turns = 0
        self._yield_due = 0.0
        self._waiting: Waiting | None = None
        self._wait: Callable[[float | None], list[tuple[int, int]]] = self._poll.poll
        self._when_busy: Callable[[], None] | None = None
        self._timers: list[tuple[float, int, Timer]] = []
        self._nr_timers = 0
        self._running = True

    def watch(self, fd: int, handler: Callable[[int], None]) -> None:
        """Call *handler* with the poll events of *fd* whenever it is readable or hangs up."""
        self._handlers[fd] = handler
        self._fresh.add(fd)
        self._others.register(fd, READABLE)

    def watch_listener(self, listener: Waking, handler: Callable[[int], None]) -> None:
        """Do the same for a listener, which is told whether others have calls as well."""
        fd = listener.fd
        self._handlers[fd] = handler
        self._fresh.add(fd)
        self._listeners[fd] = listener
        self._poll.register(fd, READABLE)
        if self._waiting is not None:
            self._waiting.watch(listener)
        if self.is_crowd:
            listener.wake_apart(apart=True)

    def forget(self, fd: int) -> None:
        """Stop watching *fd*; to be called before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            if fd in self._listeners:
                del self._listeners[fd]
                self._poll.unregister(fd)
                if self._waiting is not None:
                    self._waiting.forget(fd)
            else:
                self._others.unregister(fd)

    def rest(self, listening: socket.socket, handler: Callable[[int], None]) -> None:
        """Leave *listening* alone for a moment: it is readable, and nothing can be done about it."""
        self.forget(listening.fileno())

        def go_on() -> None:
            if listening.fileno() >= 0:
                self.watch(listening.fileno(), handler)

        self.call_later(_REST_SECONDS, go_on)

    def call_later(self, seconds: float, action: Callable[[], object]) -> Timer:
        """Run *action* once, not before *seconds* have passed, unless that is cancelled."""
        self._nr_timers += 1
        timer = Timer(action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._nr_timers, timer))
        return timer

    def spawn(self, job: Iterator[Any]) -> None:
        """Take the steps of *job*, after those of other jobs, and serve everybody in between.

        A job that yields a list instead of nothing waits in it, until somebody spawns it again.
        """
        self._jobs.append(job)

    def when_busy(self, action: Callable[[], None]) -> None:
        """Run *action* once, when there has been much to do."""
        self._when_busy = action

    def wait_by(
        self, make: Callable[[int, Callable[[float | None], list[tuple[int, int]]]], _Waiting]
    ) -> _Waiting:
        """Have listeners waited for by what *make* gives.

        It is told of a descriptor for all else, and of a way to wait for everything as ever.
        """
        self._waiting = waiting = make(self._others.fileno(), self._poll.poll)
        for listener in self._listeners.values():
            waiting.watch(listener)
        self._wait = waiting.wait
        return waiting

    def stop(self) -> None:
        """Return from :meth:`run` after the handlers at hand."""
        self._running = False

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        dispatch, fresh, timers, jobs = self._dispatch, self._fresh, self._timers, self._jobs
        now = time.monotonic
        turns = itertools.count(1)
        ready: list[tuple[int, int]] = []
        while self._running:
            patience_ms: float | None = None
            if timers:
                patience_ms = (timers[0][0] - now()) * 1000
                if patience_ms <= 0:
                    self._run_timers()
                    patience_ms = 0
            if jobs:
                self._go_on(jobs)
                patience_ms = 0
            fresh.clear()
            turn = next(turns)
            if turn == _BUSY_TURNS and self._when_busy is not None:
                self._when_busy()
            if self._waiting is not None and self._waiting.last_fd >= 0:
                self._look_for_crowd(self._waiting.last_fd)  # its turn is as many of ours
            elif not turn % _LOOK_TURNS:
                self._look_for_crowd(ready[-1][0] if ready else -1)
            ready = self._wait(patience_ms)
            dispatch(ready)

    def _go_on(self, jobs: deque[Iterator[Any]]) -> None:
        """Give the next job its time; then let those run who wait for our processor.

        Outside a crowd whoever is answered is woken there.
        """
        end = time.monotonic() + _JOB_SECONDS
        job = jobs.popleft()
        self._job_turns += 1
        while (waits := next(job, jobs)) is None:
            if time.monotonic() >= end:
                break
        if waits is None and self._job_turns < _JOB_TURNS:
            jobs.appendleft(job)
        else:
            self._job_turns = 0
            if waits is None:
                jobs.append(job)
            elif waits is not jobs:
                waits.append(job)
        began = time.monotonic()
        if began >= self._yield_due and not self.is_crowd:
            sched_yield()
            ended = time.monotonic()
            self._yield_due = ended + (ended - began) * _YIELD_REST

    def _look_for_crowd(self, last: int) -> None:
        self._note_waiting(
            sum(fd in self._listeners and fd != last for fd, _ in self._poll.poll(0))
        )

    def _note_waiting(self, waiting: int) -> None:
        """Tell all listeners if so many beside the one served make a crowd, or none any more."""
        looks = self._crowd_looks + (1 if waiting >= (1 if self.is_crowd else _CROWD) else -1)
        self._crowd_looks = looks = min(max(looks, 0), _SURE_LOOKS)
        if looks == (0 if self.is_crowd else _SURE_LOOKS):
            self.is_crowd = not self.is_crowd
            for listener in self._listeners.values():
                listener.wake_apart(apart=self.is_crowd)

    def _dispatch(self, ready: list[tuple[int, int]]) -> None:
        handlers = self._handlers
        fresh = self._fresh
        for fd, events in ready:
            handler = handlers.get(fd)
            # An event of this round is not for a number that was closed and given out since.
            if handler is None or fd in fresh:
                continue
            handler(events)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2].run()
