"""Look at what a box chose without waiting for it: in a process of its own, each look with a deadline.

A look at a target's memory, its paths or its mounts may sleep for as long as a file server likes. One
that is late is given up together with the process that does it: another takes its place, and asks
again what others had asked. Whose look was late, a box, may have no more than one further.

Knows deadlines and who asked; what there is to look at is the business of those who ask.
"""

from __future__ import annotations

import os
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from kmem_harness.procfs.look_process import READ_MEMORY, TIDY, LookProcess, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.controller.loop import Loop, Timer
    from kmem_harness.procfs.look_process import Answer

__all__ = ["Asker", "Looks"]

#: So long everybody may wait for one look.
_AT_ONCE_SECONDS = 0.01
#: A look is late after so long, if something keeps it: a disk may take a while, and nobody else is to
#: wait for half a second. For lack of a processor, or of the program itself, it is after so long.
_LATE_SECONDS = 0.35
_HUNGRY_SECONDS = 3.0
#: So many are asked for at once.
_TOGETHER = 32
#: So many looks of one box may be late.
_MOST_LATE = 2
#: So often one is asked that ends the process each time, which nobody knows how to do.
_MOST_TRIES = 3


class Asker:
    """Whom looks are for, such as a box."""

    __slots__ = ("late", "number", "told")

    def __init__(self, number: int, told: Callable[[], None]) -> None:
        """Be known by *number* where looks are done; *told* is called when one was late."""
        self.number = number
        self.told = told
        #: How many looks were late.
        self.late = 0


class _Look:
    """One look under way. ``then`` is given what was seen, or ``None`` if that took too long."""

    __slots__ = ("answer", "asked", "asker", "is_over", "request", "serial", "then", "tries")

    def __init__(
        self,
        asker: Asker,
        request: Request,
        then: Callable[[Answer | None], object] | None,
    ) -> None:
        self.asker = asker
        self.request = request
        self.then = then
        self.serial = self.tries = 0
        #: When it was asked, or became the next to be answered.
        self.asked = 0.0
        self.is_over = False
        self.answer: Answer | None = None


class Looks:
    """All looks of one controller. Its process is started when it is first asked something."""

    def __init__(self, loop: Loop) -> None:
        """Give answers through *loop*."""
        self._loop = loop
        self._process: LookProcess | None = None
        #: Looks under way, in the order in which they are answered.
        self._asked: deque[_Look] = deque()
        self._serial = 0
        self._timer: Timer | None = None
        self._numbers: list[int] = []
        self._nr_askers = 0
        self._own = self.enter(lambda: None)
        self._is_tidy = True
        #: Called when a process was given up, and with it all that it remembered.
        self.when_forgotten: list[Callable[[], None]] = []

    def enter(self, told: Callable[[], None]) -> Asker:
        """Give what a box asks by; *told* is called whenever a look of it was late."""
        if self._numbers:
            return Asker(self._numbers.pop(), told)
        self._nr_askers += 1
        return Asker(self._nr_askers - 1, told)

    def leave(self, asker: Asker) -> None:
        """Forget *asker*: nothing that it asked is answered any more."""
        for look in self._asked:
            if look.asker is asker:
                look.then = None
        self._numbers.append(asker.number)

    # -- what is asked ---------------------------------------------------------------------

    def read_memory(
        self,
        asker: Asker,
        tid: int,
        address: int,
        length: int,
        then: Callable[[bytes | None], object],
    ) -> None:
        """Read *length* bytes (4096 at most) at *address*, any word of 64 bits, of thread *tid*.

        *then* is called by the loop, never before this returns: with as many of them as there are
        (none where there is no memory, or nobody may read it), or with ``None`` if that took too
        long. What the target keeps there may be something else by then.
        """
        request = Request(READ_MEMORY, tid, address, length)
        self.ask(asker, request, lambda seen: then(None if seen is None else seen.text))

    def ask(self, asker: Asker, request: Request, then: Callable[[Answer | None], object]) -> None:
        """Have the loop call *then* with what was seen, or with ``None`` if that took too long."""
        self._send(_Look(asker, request, then))

    def look(
        self,
        asker: Asker,
        request: Request,
        later: Callable[[Answer | None], object] | None = None,
    ) -> Answer | None:
        """Give what was seen, if that takes next to no time; else ``None``.

        Then *later* is called by the loop, as by :meth:`ask`.
        """
        look = _Look(asker, request, None)
        self._send(look)
        self._wait_for(look)
        if not look.is_over:
            look.then = later
        elif look.answer is None and later is not None:
            self._loop.call_later(0, partial(later, None))
        return look.answer

    def look_all(self, asker: Asker, requests: Sequence[Request]) -> list[Answer] | None:
        """Give what was seen of each, if that takes next to no time; else ``None``."""
        answers = []
        for at in range(0, len(requests), _TOGETHER):
            looks = [_Look(asker, request, None) for request in requests[at : at + _TOGETHER]]
            for look in looks:
                self._send(look)
            self._wait_for(looks[-1])
            answers += [look.answer for look in looks if look.answer is not None]
            if len(answers) < at + len(looks):
                return None
        return answers

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._give_up(self._process)
        self._asked.clear()

    # -- the process -----------------------------------------------------------------------

    def _send(self, look: _Look) -> None:
        """Ask *look*'s question; where nobody can be asked, it is over."""
        look.asked = time.monotonic()
        look.tries += 1
        self._is_tidy = False
        self._serial = look.serial = (self._serial + 1) & 0xFFFFFFFF
        packet = look.request.packet(look.serial, look.asker.number)
        if look.asker.late >= _MOST_LATE or look.tries > _MOST_TRIES:
            self._finish(look, None)
            return
        try:
            self._running().send(packet)
        except BlockingIOError:  # so many wait that there is no hope for one more
            self._finish(look, None)
        except OSError:
            # It was ended by somebody, or there is no room for it: one try more.
            try:
                self._replace()
                self._running().send(packet)
            except OSError:
                self._finish(look, None)
            else:
                self._asked.append(look)
        else:
            self._asked.append(look)
        if self._timer is None and self._asked:
            self._timer = self._loop.call_later(_LATE_SECONDS, self._check)

    def _running(self) -> LookProcess:
        if self._process is None:
            self._process = process = LookProcess()
            process.wait_at_most(_AT_ONCE_SECONDS)
            self._loop.watch(process.fd, lambda _: self._hear())
            process.when_it_waits = lambda fd: self._loop.watch(fd, lambda _: self._hear())
        return self._process

    def _hear(self) -> None:
        """Take the answers that are there."""
        try:
            while self._process is not None and (answer := self._process.receive(waits=False)):
                self._take(answer, at_once=True)
        except OSError:
            self._replace()

    def _wait_for(self, look: _Look) -> None:
        """Wait a little for *look*; who waits for another meanwhile is called by the loop."""
        # Whoever found one taking long has waited for it on behalf of all.
        if look.is_over or time.monotonic() >= self._asked[0].asked + _AT_ONCE_SECONDS:
            return
        while not look.is_over and self._process is not None:
            try:
                answer = self._process.receive()
            except OSError:
                self._replace()
                return
            if answer is None:
                return
            self._take(answer, at_once=False)

    def _take(self, answer: Answer, *, at_once: bool) -> None:
        look = self._asked.popleft()
        if look.serial != answer.serial:  # nobody but our own program could do that
            self._asked.appendleft(look)
            self._replace()
            return
        if self._asked:
            self._asked[0].asked = time.monotonic()
        self._finish(look, answer, at_once=at_once)

    def _finish(self, look: _Look, answer: Answer | None, *, at_once: bool = False) -> None:
        look.is_over = True
        look.answer = answer
        then, look.then = look.then, None
        if then is None:
            return
        if at_once:
            then(answer)
        else:
            self._loop.call_later(0, partial(then, answer))

    def _check(self) -> None:
        """See whether the look under way is late, as long as there is one."""
        self._timer = None
        if not self._asked:
            if not self._is_tidy and self._process is not None:
                # What was kept for the next name is of no more use.
                self.ask(self._own, Request(TIDY, 0), lambda _: None)
                self._is_tidy = True
            return
        waited = time.monotonic() - self._asked[0].asked
        process = self._process
        if waited >= _LATE_SECONDS and process is not None:
            self._hear()  # it may have answered just now
            if self._asked and self._process is process:
                waited = time.monotonic() - self._asked[0].asked
                is_hungry = not process.has_answered or process.is_running
                if waited >= (_HUNGRY_SECONDS if is_hungry else _LATE_SECONDS):
                    look = self._asked.popleft()
                    look.asker.late += 1
                    look.asker.told()
                    self._finish(look, None)
                    self._replace()
        if self._asked and self._timer is None:
            soon = _LATE_SECONDS - (time.monotonic() - self._asked[0].asked)
            self._timer = self._loop.call_later(max(soon, _AT_ONCE_SECONDS), self._check)

    def _replace(self) -> None:
        """Go on with another process: what is under way is asked once more."""
        if self._process is not None:
            self._give_up(self._process)
        again, self._asked = self._asked, deque()
        for forget in self.when_forgotten:
            forget()
        for look in again:
            self._send(look)

    def _give_up(self, process: LookProcess) -> None:
        """End *process*, and reap it once it has ended, if ever: nothing else depends on that."""
        self._process = None
        self._loop.forget(process.fd)
        if process.listener >= 0:
            self._loop.forget(process.listener)
        pidfd = process.end()

        def ended(_: int) -> None:
            process.reap()
            self._loop.forget(pidfd)
            os.close(pidfd)

        self._loop.watch(pidfd, ended)
