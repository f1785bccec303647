"""A process that looks at what targets chose, so that whoever asks it waits no longer than it likes.

The kernel may make a look at a target's memory or path sleep for as long as a file server likes, and
no signal ends that. Knows ``interposer/native/look.c``; knows no boxes and no deadlines.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

__all__ = [
    "COUNT_INODES",
    "FORGET",
    "LONGEST_TEXT",
    "MADE_ON",
    "MOST_BOXES",
    "PROGRAM",
    "READ_MEMORY",
    "SETTLE",
    "WATCH_MAKING",
    "WATCH_REMOVAL",
    "Answer",
    "LookProcess",
    "Request",
]

PROGRAM = os.path.join(os.path.dirname(__file__), os.pardir, "interposer", "bin", "kmem-look")

#: enum operation, struct request and struct answer of look.c.
READ_MEMORY, WATCH_REMOVAL, WATCH_MAKING, SETTLE, FORGET, COUNT_INODES = range(1, 7)
MOST_BOXES = 4096
_REQUEST = struct.Struct("=IIIiQIiQ")
#: What follows the answer to SETTLE: names made, by device.
MADE_ON = struct.Struct("=III")
_ANSWER = struct.Struct("=Ii5Q")
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
        #: Whether it is known to be up.
        self.has_answered = False

    def wait_at_most(self, seconds: float) -> None:
        """Have :meth:`receive` wait so long and a few milliseconds more."""
        timeout = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)

    def send(self, packet: bytes) -> None:
        """Ask something. Raises: OSError if it is gone, BlockingIOError if it is far behind."""
        self._socket.send(packet, socket.MSG_DONTWAIT)

    def receive(self, flags: int = 0) -> Answer | None:
        """Take an answer, ``None`` if there is none in time; by *flags*, without waiting.

        Raises: OSError if the process is gone.
        """
        try:
            packet = self._socket.recv(_ANSWER.size + LONGEST_TEXT, flags)
        except BlockingIOError:
            return None
        if not packet:
            raise ConnectionResetError("the process that looks is gone")
        self.has_answered = True
        serial, error, *figures = _ANSWER.unpack_from(packet)
        return Answer(serial, error, tuple(figures), packet[_ANSWER.size :])

    @property
    def is_running(self) -> bool:
        """Whether it has a processor, or waits for one: then it is not kept by what it looks at."""
        with suppress(OSError), open(f"/proc/{self.pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1] == b"R"
        return False

    def end(self) -> int:
        """Have it end as soon as it can; give a pidfd, readable once it has, to be reaped then."""
        self._socket.close()
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
