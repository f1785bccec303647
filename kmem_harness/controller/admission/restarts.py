"""Keep signals from failing trapped calls: ask a program beside the box before some of its calls run.

A caller that waits for us to receive its call can be woken by a signal, and its call then fails with
EINTR, which natively it never would. ``kmem-restarter`` (see ``interposer/native/restarter.c``) traces
those tasks whose handlers let that happen, and makes their calls start over. It is started when the
first call is to be asked about, and may be kept waiting by what its box does: nobody else is.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.interposer.filter import Condition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.guard import Guard
    from kmem_harness.controller.loop import Timer
    from kmem_harness.interposer.listener import Listener
    from kmem_harness.interposer.syscalls import Architecture

__all__ = ["RESTARTER", "WATCHED", "Restarts", "numbers_that_start_over"]

_PACKAGE = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 2))
RESTARTER = os.path.join(_PACKAGE, "interposer", "bin", "kmem-restarter")

_TRACEME, _ATTACH, _SEIZE = 0, 16, 0x4206  # requests of ptrace(2)
#: The calls that are asked about: a new signal action, and whoever begins to trace.
WATCHED = {
    "rt_sigaction": Condition(arg=1, mask=0xFFFF_FFFF),
    "ptrace": Condition(arg=0, equal=(_TRACEME, _ATTACH, _SEIZE)),
}
#: Calls that a signal interrupts natively, too, when they wait: their answer stays as it is. Of open
#: and fcntl the program itself tells which wait. Source: signal(7).
_INTERRUPTIBLE = frozenset(
    [
        "accept",
        "accept4",
        "clock_nanosleep",
        "connect",
        "copy_file_range",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "fallocate",
        "flock",
        "futex",
        "getrandom",
        "io_getevents",
        "ioctl",
        "mq_timedreceive",
        "mq_timedsend",
        "msgrcv",
        "msgsnd",
        "nanosleep",
        "pause",
        "poll",
        "ppoll",
        "pread64",
        "preadv",
        "preadv2",
        "pselect6",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readv",
        "recvfrom",
        "recvmmsg",
        "recvmsg",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "select",
        "semop",
        "semtimedop",
        "sendfile",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "splice",
        "tee",
        "vmsplice",
        "wait4",
        "waitid",
        "write",
        "writev",
    ]
)

_REQUEST = struct.Struct("=IiQQ")  # struct request of restarter.c: operation, tid, token, word
_ANSWER = struct.Struct("=QII")  # struct answer: token, outcome, unused
_TALLIES = struct.Struct("=QQ")  # struct tallies: restarted, untraceable
_ON_ACTION, _ON_ATTACH, _ON_TRACEME = 1, 2, 3
_START_OVER = 1
#: The kernel's own word for a call that starts over once its caller has been stopped for a moment.
_ERESTARTNOINTR = 513
#: How long a call waits for its answer. The program needs some 50 microseconds; where it needs so long
#: it is kept by its box, and is asked no more.
_PATIENCE_SECONDS = 5.0


def numbers_that_start_over(trapped: Iterable[str], architecture: Architecture) -> list[int]:
    """List those of the calls *trapped* that no signal interrupts natively, by number."""
    numbers = architecture.numbers
    return sorted(numbers[name] for name in trapped if name in numbers.keys() - _INTERRUPTIBLE)


class Restarts:
    """The restarter of one box. It has no process before there is something to ask."""

    def __init__(
        self, loop: Guard, box: Box, architecture: Architecture, numbers: list[int]
    ) -> None:
        """Answer the watched calls of *box*; calls of *numbers* start over if interrupted."""
        self._loop = loop
        self._box = box
        self._numbers = numbers
        self._connection: socket.socket | None = None
        self._tallies = -1
        self._told = (0, 0)
        self._is_lost = False
        self._nr_asked = 0
        self._asked: dict[int, tuple[Listener, int, Timer]] = {}
        box.asked = {
            architecture.numbers["rt_sigaction"]: self._on_action,
            architecture.numbers["ptrace"]: self._on_ptrace,
        }

    @property
    def restarted(self) -> int:
        """Count the interrupted calls that started over."""
        return self._tally()[0]

    def doubts(self) -> list[str]:
        """Say, in sentences, where calls may have been interrupted after all."""
        untraceable = self._tally()[1]
        found = []
        if untraceable:
            found.append(
                f"{untraceable} tasks with signal handlers could not be traced: a signal may have failed "
                "their calls with EINTR"
            )
        if self._is_lost:
            found.append(
                "signal handlers were not all looked at in time, or not at all: a signal may have failed "
                "calls with EINTR"
            )
        return found

    def forget(self, listener: Listener) -> None:
        """Answer nothing more of a listener that is no more."""
        for token, (asker, _, timer) in list(self._asked.items()):
            if asker is listener:
                timer.cancel()
                del self._asked[token]

    def close(self) -> None:
        """Let go of the program, which then ends, and of all tasks that it traces."""
        self._told = self._tally()
        self._hang_up()
        if self._tallies >= 0:
            os.close(self._tallies)
            self._tallies = -1

    # -- asking ----------------------------------------------------------------------------

    def _on_action(self, listener: Listener, notification: tuple[int, ...]) -> None:
        """Ask about a new signal action: its address is argument 1."""
        self._ask(listener, notification, _ON_ACTION, notification[7])

    def _on_ptrace(self, listener: Listener, notification: tuple[int, ...]) -> None:
        """Have a task let go of that somebody else wants to trace: its pid is argument 1."""
        if self._connection is None:
            listener.allow(notification[0])  # nobody is traced
        elif notification[6] == _TRACEME:
            self._ask(listener, notification, _ON_TRACEME, 0)
        else:
            self._ask(listener, notification, _ON_ATTACH, notification[7] & 0xFFFF_FFFF)

    def _ask(
        self, listener: Listener, notification: tuple[int, ...], operation: int, word: int
    ) -> None:
        self._nr_asked = token = self._nr_asked + 1
        request = _REQUEST.pack(operation, notification[1], token, word)
        try:
            if self._connection is None and not self._is_lost:
                self._connection = self._start()
            if self._connection is not None:
                self._connection.send(request, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # no program, or one that does not read
            self._is_lost = True
        if self._connection is None or self._is_lost:
            listener.allow(notification[0])
            return
        timer = self._loop.call_later(_PATIENCE_SECONDS, lambda: self._too_late(token))
        self._asked[token] = listener, notification[0], timer

    def _start(self) -> socket.socket:
        """Start the program. Raises: OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            if self._tallies < 0:
                self._tallies = os.memfd_create("kmem-restarter")
                os.ftruncate(self._tallies, _TALLIES.size)
            os.set_inheritable(theirs.fileno(), True)
            os.set_inheritable(self._tallies, True)
            try:
                numbers = ",".join(map(str, self._numbers))
                arguments = [RESTARTER, str(theirs.fileno()), str(self._tallies), numbers]
                pid = os.posix_spawn(RESTARTER, arguments, {})
            finally:
                os.set_inheritable(self._tallies, False)
        pidfd = os.pidfd_open(pid)
        self._loop.watch(pidfd, lambda _: self._ended(pid, pidfd))
        self._loop.watch(ours.fileno(), lambda _: self._answered())
        return ours

    # -- answers ---------------------------------------------------------------------------

    def _answered(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            message = connection.recv(_ANSWER.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if len(message) != _ANSWER.size:
            self._is_lost = True
            self._hang_up()
            return
        token, outcome, _ = _ANSWER.unpack(message)
        asked = self._asked.pop(token, None)
        if asked is None:
            return
        listener, notification_id, timer = asked
        timer.cancel()
        if outcome == _START_OVER:
            listener.deny(notification_id, _ERESTARTNOINTR)
        else:
            listener.allow(notification_id)

    def _too_late(self, token: int) -> None:
        asked = self._asked.pop(token, None)
        if asked is not None:
            self._is_lost = True
            asked[0].allow(asked[1])

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._loop.forget(connection.fileno())
            connection.close()
        asked, self._asked = self._asked, {}
        for listener, notification_id, timer in asked.values():
            timer.cancel()
            with suppress(OSError):
                listener.allow(notification_id)

    def _ended(self, pid: int, pidfd: int) -> None:
        self._loop.forget(pidfd)
        os.close(pidfd)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def _tally(self) -> tuple[int, int]:
        if self._tallies < 0:
            return self._told
        with suppress(OSError, struct.error):
            restarted, untraceable = _TALLIES.unpack(os.pread(self._tallies, _TALLIES.size, 0))
            return restarted, untraceable
        return self._told
