"""Carry bytes between a client and the engine, in both directions at once, without a thread for each.

What one side does not take is kept, up to a bound; then the other is not read. Half of a connection
may end before the other.
"""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress

from kmem_harness.proxy.framing import Head, Incoming, NotHttpError, Reply
from kmem_harness.proxy.routes import hijacks

__all__ = ["Side", "pass_on"]

_AT_ONCE = 1 << 16
_MOST_KEPT = 1 << 20
_TURN_MS = 60_000.0


class Side:
    """One end of a connection that bytes come from and go to."""

    def __init__(self, connection: socket.socket) -> None:
        """Take *connection* over, which does not block from here on."""
        connection.setblocking(False)
        self.socket = connection
        self.kept = bytearray()
        #: Whether it has said all that it will say; whether we have.
        self.has_ended = False
        self.was_told_the_end = False
        #: Whether nobody is there any more, in either direction.
        self.is_gone = False

    def is_stale(self) -> bool:
        """Say whether it has hung up between two requests."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def read(self) -> bytes | None:
        """Read what is there: ``None`` for nothing yet, nothing at its end. Raises: OSError."""
        try:
            data = self.socket.recv(_AT_ONCE)
        except (BlockingIOError, InterruptedError):
            return None
        self.has_ended = not data
        return data

    def write(self, data: bytes = b"") -> None:
        """Send as much as it takes, and keep the rest. Raises: OSError."""
        self.kept += data
        while self.kept:
            try:
                sent = self.socket.send(self.kept, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            del self.kept[:sent]

    def write_all(self, data: bytes, seconds: float) -> None:
        """Send all of *data*. Raises: OSError, TimeoutError among them."""
        self.write(data)
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT)
        while self.kept:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError("who asked does not read the answer")
            self.write()

    def tell_the_end(self) -> None:
        """Say that nothing more comes."""
        if not self.was_told_the_end and not self.kept:
            self.was_told_the_end = True
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)


def pass_on(
    client: Side, engine: Side, request: Incoming, head: Head, came: tuple[bytes, bytes]
) -> bytes | None:
    """Carry one request and its answer; of it, and beyond it, *came* some already.

    Gives what the client has sent beyond it, or ``None`` if the connection is used up: a stream in
    both directions has ended, or one side has.
    Raises: OSError, NotHttpError.
    """
    first, beyond = came
    request.take_body()
    exchange = _Exchange(client, engine, request, head, beyond)
    engine.write(first)
    return exchange.run()


class _Exchange:
    def __init__(
        self, client: Side, engine: Side, request: Incoming, head: Head, beyond: bytes
    ) -> None:
        self._client = client
        self._engine = engine
        self._request = request
        self._reply = Reply(head)
        self._hijacks = hijacks(head.method, head.path)
        #: What came after the request: the next one, or what a stream begins with.
        self._beyond = beyond

    def run(self) -> bytes | None:
        client, engine, reply = self._client, self._engine, self._reply
        while True:
            if reply.is_raw and self._beyond:
                engine.write(self._beyond)
                self._beyond = b""
            if reply.is_whole and not client.kept:
                whole = self._request.is_whole and not engine.kept
                reusable = whole and not reply.ends_connection
                return self._beyond if reusable and not engine.has_ended else None
            if client.has_ended and (reply.is_raw or self._request.is_whole):
                engine.tell_the_end()
            if engine.has_ended and not client.kept:
                client.tell_the_end()
                # Of a stream, one direction may end before the other.
                if engine.is_gone or client.has_ended or not reply.is_raw:
                    return None
            if not self._turn():
                return None

    def _turn(self) -> bool:
        """Carry what can be carried now; say whether there is anybody left."""
        client, engine = self._client, self._engine
        poll = select.poll()
        by_fd = {client.socket.fileno(): client, engine.socket.fileno(): engine}
        for side, other in ((client, engine), (engine, client)):
            wanted = select.POLLOUT if side.kept else 0
            if self._wants(side) and len(other.kept) < _MOST_KEPT:
                wanted |= select.POLLIN
            if not side.is_gone:
                poll.register(side.socket, wanted)
        for fd, events in poll.poll(_TURN_MS):
            side = by_fd[fd]
            other = engine if side is client else client
            if events & select.POLLOUT:
                side.write()
            if events & (select.POLLIN | select.POLLHUP) and self._wants(side):
                data = side.read()
                if data is not None:
                    self._take(side, other, data)
            elif events & (select.POLLHUP | select.POLLERR):
                side.has_ended = side.is_gone = True
        return not client.is_gone

    def _wants(self, side: Side) -> bool:
        if side.has_ended:
            return False
        # A client that has asked may send what belongs to a stream, or its next request.
        return side is self._engine or len(self._beyond) < _AT_ONCE

    def _take(self, side: Side, other: Side, data: bytes) -> None:
        if side is self._engine:
            if data or not self._reply.is_raw:
                self._reply.feed(data, hijacks=self._hijacks)
            other.write(data)
        elif self._reply.is_raw:
            other.write(data)
        elif self._request.is_whole:
            self._beyond += data
        elif data:
            rest = self._request.feed(data)
            self._request.take_body()
            other.write(data[: len(data) - len(rest)])
            self._beyond = rest
        else:
            raise NotHttpError("the request ends too early")
