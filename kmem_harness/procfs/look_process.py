"""A process that looks at what targets chose, so that whoever asks it waits no longer than it likes.

The kernel may make a look at a target's memory or path sleep for as long as a file server likes, and
no signal ends that. Knows ``interposer/native/look.c``; knows no boxes and no deadlines.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from contextlib import suppress
from fcntl import ioctl
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "COUNT_INODES",
    "FORGET",
    "LONGEST_TEXT",
    "MADE_ON",
    "MOST_BOXES",
    "PROGRAM",
    "READ_MEMORY",
    "SETTLE",
    "TIDY",
    "WATCH_MAKING",
    "WATCH_REMOVAL",
    "Answer",
    "LookProcess",
    "Request",
]

PROGRAM = os.path.join(os.path.dirname(__file__), os.pardir, "interposer", "bin", "kmem-look")

#: enum operation, struct request and struct answer of look.c.
READ_MEMORY, WATCH_REMOVAL, WATCH_MAKING, SETTLE, FORGET, COUNT_INODES, TIDY = range(1, 8)
MOST_BOXES = 4096
_REQUEST = struct.Struct("=IIIiQIiQ")
#: What follows the answer to SETTLE: names made, by device.
MADE_ON = struct.Struct("=III")
_ANSWER = struct.Struct("=Ii5Q")
# include/uapi/linux/seccomp.h, as in interposer/listener.py.
_RECV, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _ID, _RESPONSE = bytes(80), struct.Struct("=Q"), struct.Struct("=QqiI")
LONGEST_TEXT = 4096  # PATH_MAX


class Request(NamedTuple):
    """What to look at; what an operation does not use is 0."""

    operation: int
    tid: int
    address: int = 0
    length: int = 0
    directory: int = 0
    flags: int = 0
    path: bytes = b""

    def packet(self, serial: int, box: int) -> bytes:
        """Give it as the process reads it."""
        operation, tid, address, length, directory, flags, path = self
        return _REQUEST.pack(operation, serial, box, tid, address, length, directory, flags) + path


class Answer(NamedTuple):
    """What was seen: ``error`` is an errno, 0 for none."""

    serial: int
    error: int
    figures: tuple[int, ...]
    text: bytes


class LookProcess:
    """One such process. It holds nothing of ours but its end of a socket."""

    def __init__(self) -> None:
        """Start it. Raises: OSError."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.pid = os.posix_spawn(
                    PROGRAM,
                    ["kmem-look"],
                    {},
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                        # Not ours: it may live on after us, and somebody may wait for their end.
                        *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (1, 2)),
                    ],
                )
        except OSError:
            self._socket.close()
            raise
        self.fd = self._socket.fileno()
        #: Where it waits to be told that it is asked something, if it does; and which wait that is.
        self.listener = -1
        #: Told of it: whoever waits for answers has to wait there, too.
        self.when_it_waits: Callable[[int], object] = lambda _: None
        self._waiting = self._nr_asked = 0
        self._poll = select.poll()
        self._milliseconds = 0
        self._has_greeted = False
        #: Whether it is known to be up.
        self.has_answered = False

    def wait_at_most(self, seconds: float) -> None:
        """Have :meth:`receive` wait so long, or a few milliseconds more."""
        self._milliseconds = int(seconds * 1000)
        timeout = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)

    def send(self, packet: bytes) -> None:
        """Ask something. Raises: OSError if it is gone, BlockingIOError if it is far behind."""
        self._socket.send(packet, socket.MSG_DONTWAIT)
        self._nr_asked += 1
        self._tell()

    def receive(self, *, waits: bool = True) -> Answer | None:
        """Take an answer, ``None`` if there is none in time, or without waiting none yet.

        Raises: OSError if the process is gone.
        """
        if self.listener < 0:
            return self._take(0 if waits else socket.MSG_DONTWAIT)
        while True:
            # It waits to be told once it has done all that it knew of.
            if not self._waiting and self._poll.poll(self._milliseconds if waits else 0):
                self._hear()
            answer = self._take(socket.MSG_DONTWAIT)
            if answer is not None or not self._nr_asked or not self._waiting:
                return answer
            self._tell()  # it was asked just before it began to wait
            if not waits:
                return None

    def _take(self, flags: int) -> Answer | None:
        """Take an answer from the socket, or what comes before the first."""
        while True:
            try:
                if self._has_greeted:
                    packet = self._socket.recv(_ANSWER.size + LONGEST_TEXT, flags)
                else:
                    packet, fds, *_ = socket.recv_fds(self._socket, 1, 1, flags)
            except BlockingIOError:
                return None
            if not packet:
                raise ConnectionResetError("the process that looks is gone")
            if self._has_greeted:
                break
            self._has_greeted = True
            if fds:
                self.listener = fds[0]
                self._poll.register(self.listener, select.POLLIN)
                self.when_it_waits(self.listener)
                flags = socket.MSG_DONTWAIT
        self.has_answered = True
        self._nr_asked -= 1
        serial, error, *figures = _ANSWER.unpack_from(packet)
        return Answer(serial, error, tuple(figures), packet[_ANSWER.size :])

    def _hear(self) -> None:
        """Learn that it waits to be told."""
        with suppress(FileNotFoundError, InterruptedError):
            self._waiting = _ID.unpack_from(ioctl(self.listener, _RECV, _NOTIFICATION))[0]

    def _tell(self) -> None:
        """Have it look for what it is asked, if it waits for that."""
        if not self._waiting and self.listener >= 0 and self._poll.poll(0):
            self._hear()
        if self._waiting:
            waiting, self._waiting = self._waiting, 0
            with suppress(FileNotFoundError):
                ioctl(self.listener, _SEND, _RESPONSE.pack(waiting, 0, 0, 0))

    @property
    def is_running(self) -> bool:
        """Whether it has a processor, or waits for one: then it is not kept by what it looks at."""
        with suppress(OSError), open(f"/proc/{self.pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1] == b"R"
        return False

    def end(self) -> int:
        """Have it end as soon as it can; give a pidfd, readable once it has, to be reaped then."""
        self._socket.close()
        if self.listener >= 0:
            os.close(self.listener)
        pidfd = os.pidfd_open(self.pid)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return pidfd

    def reap(self) -> bool:
        """Say whether it has ended, and forget it then."""
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True
