"""Take over the listener of one box from its shim, and from nobody else.

A connection is accepted only from the process the owner announced, or its child; it must hand
over exactly one descriptor, a seccomp listener, in time. Then the socket is gone for good, unless
the box is a container: those can be started again, and entered with exec.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from errno import ETIMEDOUT
from typing import TYPE_CHECKING, NamedTuple

from kmem_harness.controller.door.peers import credentials_of, parent_of
from kmem_harness.controller.door.protocol import close_all, receive_with_fds
from kmem_harness.controller.loop import OUT_OF_DESCRIPTORS
from kmem_harness.controller.spare_descriptors import is_scarce
from kmem_harness.core.errors import ShimError
from kmem_harness.interposer.filter import MAGIC
from kmem_harness.interposer.listener import Listener, is_listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.guard import Guard
    from kmem_harness.controller.loop import Loop, Timer

__all__ = ["Handshake", "Taken"]

TIMEOUT_SECONDS = 10.0
#: Silent peers that may wait at once; a real shim is never behind more than these.
MAX_PEERS = 64

_OUTCOME = struct.Struct("=IiI20s")  # struct outcome of shim.c


class Taken(NamedTuple):
    """What a successful handshake gives: the listener, the flags it has, who handed it over.

    ``joined``: not by the process announced, but by one that entered a box already up.
    """

    listener: Listener
    flags: int
    peer_pid: int
    joined: bool


class Handshake:
    """Wait for the shim of one box on a socket of its own."""

    def __init__(
        self,
        loop: Guard | Loop,
        path: str,
        offer: bytes,
        done: Callable[[Taken | ShimError], bool],
        may_join: Callable[[int], bool] | None = None,
    ) -> None:
        """Listen at *path*; call *done* with the listener, or with why there is none.

        The shim goes on if *done* says so. With *may_join*, which judges a process that nobody
        announced, the socket lasts for further handshakes, in a directory of its own that any
        user may enter: whoever is inside the container must reach it.
        """
        self._loop = loop
        self._path = path
        self._offer = offer
        self._done = done
        self._may_join = may_join
        self._expected: int | None = None
        self._peers: dict[socket.socket, int] = {}
        #: When each has been silent for too long; the first to come is the first in here.
        self._deadlines: dict[socket.socket, float] = {}
        self._timer: Timer | None = None
        self._patience: Timer | None = None
        # Judged while they live: a shim that fails is dead before its message is read.
        self._trusted: dict[socket.socket, bool] = {}  # whether it joins
        if may_join is not None:
            os.mkdir(os.path.dirname(path))
            os.chmod(os.path.dirname(path), 0o755)  # noqa: S103 - see above; whatever our umask is
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.bind(path)
        if may_join is not None:
            os.chmod(path, 0o666)  # noqa: S103 - see above: peers are judged by their pid
        self._socket.listen(MAX_PEERS)
        self.rejected = 0
        self._is_open = False

    def expect(self, pid: int) -> None:
        """Accept the process *pid* or a child of it; those who came before are judged now.

        Nobody is let in before: a flood could push out the shim that nobody has announced yet. A
        shim that does not get that far in time, stopped by somebody, keeps nobody waiting.
        """
        self._expected = pid
        if not self._is_open:
            self._is_open = True
            self._loop.watch(self._socket.fileno(), self._accept)
        self._be_patient_no_more()
        self._patience = self._loop.call_later(TIMEOUT_SECONDS, lambda: self._give_up(pid))
        for peer, peer_pid in list(self._peers.items()):
            if peer in self._trusted:
                continue
            joins = self._joins(peer_pid)
            if joins is None:
                self.rejected += 1
                self._drop(peer)
            else:
                self._greet(peer, joins=joins)

    def hear_out(self) -> None:
        """Hear what a shim said before it died: its box may be over before we come to listen."""
        self._accept(0)
        for peer in list(self._peers):
            if peer in self._peers:
                self._hear(peer)

    def close(self) -> None:
        """Stop listening, remove the socket, hang up on whoever still waits."""
        for peer in list(self._peers):
            self._drop(peer)
        if self._timer is not None:
            self._timer.cancel()
        self._be_patient_no_more()
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._offer = b""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
            if self._may_join is not None:
                os.rmdir(os.path.dirname(self._path))

    def _accept(self, _: int) -> None:
        """Let in those who wait: all at once, for the shim may be the last of them."""
        for _turn in range(MAX_PEERS):
            if self._socket.fileno() < 0:
                return
            try:
                peer, _address = self._socket.accept()
            except OSError as error:  # nobody waits, it hung up, or there is no room for it now
                if error.errno in OUT_OF_DESCRIPTORS:
                    self._loop.rest(self._socket, self._accept)
                return
            self._let_in(peer)

    def _let_in(self, peer: socket.socket) -> None:
        if is_scarce(peer.fileno()):
            self.rejected += 1
            peer.close()
            return
        pid, _ = credentials_of(peer)
        joins = self._joins(pid)
        if joins is None and self._expected is not None:  # a flood of these costs hardly anything
            self.rejected += 1
            peer.close()
            return
        peer.setblocking(False)
        if len(self._peers) >= MAX_PEERS:
            self._drop(next(iter(self._peers)))
        self._peers[peer] = pid
        self._loop.watch(peer.fileno(), lambda _: self._hear(peer))
        self._deadlines[peer] = time.monotonic() + TIMEOUT_SECONDS
        self._keep_time()
        if joins is not None:
            self._greet(peer, joins=joins)

    def _joins(self, pid: int) -> bool | None:
        """Say whether the process *pid* enters a box already up; ``None`` if it may do neither."""
        expected = self._expected
        if expected is not None and (pid == expected or _is_child(pid, expected)):
            return False
        return True if self._may_join is not None and self._may_join(pid) else None

    def _greet(self, peer: socket.socket, *, joins: bool) -> None:
        self._trusted[peer] = joins
        with suppress(OSError):
            peer.send(self._offer)  # smaller than any socket buffer

    def _hear(self, peer: socket.socket) -> None:
        pid = self._peers[peer]
        try:
            body, fds, _flags = receive_with_fds(peer, _OUTCOME.size + 1)
        except BlockingIOError:
            return
        except OSError:
            self._drop(peer)
            return
        if peer not in self._trusted or len(body) != _OUTCOME.size:
            close_all(fds)
            self.rejected += 1
            self._drop(peer)
            return
        magic, errno, flags, step = _OUTCOME.unpack(body)
        if magic == MAGIC and errno and not fds:
            name = step.rstrip(b"\0").decode("ascii", "replace")
            message = f"the shim could not {name}: {os.strerror(errno)}"
            joined = self._trusted[peer]
            self._end(peer)
            if not joined:  # else its own exit status says so to whoever started it
                self._done(ShimError(message, step=name, errno=errno))
            return
        if magic != MAGIC or len(fds) != 1 or not is_listener(fds[0]):
            close_all(fds)
            self.rejected += 1
            self._drop(peer)
            return
        taken = Taken(Listener(fds[0]), flags, pid, self._trusted[peer])
        if self._done(taken):
            if self._may_join is None:
                self._stop_listening()  # gone before the target runs, and not a moment later
            with suppress(OSError):
                peer.send(b"g")
        self._end(peer)

    def _end(self, peer: socket.socket) -> None:
        """End a handshake that is over, one way or the other."""
        if self._may_join is None:
            self.close()
            return
        if not self._trusted[peer]:
            self._expected = None  # the next start has another pid
        self._drop(peer)

    def _be_patient_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def _give_up(self, pid: int) -> None:
        if self._expected == pid and self._socket.fileno() >= 0:
            self._expected = None
            message = f"the shim has not handed over its listener for {TIMEOUT_SECONDS:.0f} s"
            self._done(ShimError(message, step="hand over listener", errno=ETIMEDOUT))

    def _keep_time(self) -> None:
        """Have one timer at most, however many peers come and go: a flood makes nothing grow."""
        if self._deadlines and self._timer is None:
            until = next(iter(self._deadlines.values())) - time.monotonic()
            self._timer = self._loop.call_later(max(until, 0), self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        now = time.monotonic()
        for peer, deadline in list(self._deadlines.items()):
            if deadline <= now:
                self.rejected += 1
                self._drop(peer)
        self._keep_time()

    def _drop(self, peer: socket.socket) -> None:
        self._trusted.pop(peer, None)
        self._deadlines.pop(peer, None)
        if self._peers.pop(peer, None) is not None:
            self._loop.forget(peer.fileno())
            peer.close()


def _is_child(pid: int, parent: int) -> bool:
    with suppress(OSError, IndexError):
        return parent_of(pid) == parent
    return False
