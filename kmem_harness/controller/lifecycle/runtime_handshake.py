"""Take over listeners from a container runtime: runc and crun send them to a socket themselves.

At a container's creation, and again for each exec into it. The socket is in the controller's own
directory, which containers do not see: only root, and our own user, can come here.
Source: config-linux.md of the OCI runtime specification (v1.1), "The Container Process State".
"""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.door.protocol import close_all, receive_with_fds
from kmem_harness.controller.lifecycle.shim_handshake import Taken
from kmem_harness.interposer.listener import Listener, is_listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.guard import Guard
    from kmem_harness.controller.loop import Loop

__all__ = ["RuntimeDoor", "RuntimeHandshake"]

_CREDENTIALS = struct.Struct("=iII")
_MAX_STATE = 1 << 20
#: crun comes when it creates a container, and sends when that is started; under no-new-privileges
#: right before the command is executed, when the engine may have said already that it has started.
_TIMEOUT_SECONDS = 60.0


class _Peer:
    """A runtime that is about to send a listener."""

    def __init__(self) -> None:
        self.body = b""
        self.fds: list[int] = []


class RuntimeDoor:
    """Wait for listeners that runtimes hand over, each with the state of its container."""

    def __init__(
        self,
        loop: Guard | Loop,
        listening: socket.socket,
        heard: Callable[[dict[str, Any], int], bool],
    ) -> None:
        """Accept at *listening*; *heard* takes over each listener, and says whether it was wanted."""
        self._loop = loop
        self._heard = heard
        self._peers: dict[socket.socket, _Peer] = {}
        self._waiting: list[Callable[[], None]] = []
        self._socket = listening
        self._socket.setblocking(False)
        self._socket.listen()
        self.rejected = 0
        loop.watch(self._socket.fileno(), self._accept)

    def when_heard(self, then: Callable[[], None]) -> None:
        """Call *then* once everybody who has come so far has spoken, or gone."""
        self._waiting.append(then)
        self._accept(0)
        for peer in list(self._peers):
            self._hear(peer)
        self._settle()

    def close(self) -> None:
        """Stop listening."""
        for peer in list(self._peers):
            self._drop(peer)
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()

    def _accept(self, _: int) -> None:
        with suppress(OSError):  # nobody there any more; out of descriptors: it will be retried
            while True:
                connection, _address = self._socket.accept()
                connection.setblocking(False)
                credentials = connection.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
                )
                _pid, uid, _gid = _CREDENTIALS.unpack(credentials)
                self._peers[connection] = _Peer()
                if uid not in {0, os.geteuid()}:
                    self._reject(connection)
                    continue
                self._loop.watch(connection.fileno(), self._hearer(connection))
                self._loop.call_later(_TIMEOUT_SECONDS, partial(self._drop, connection))

    def _hearer(self, connection: socket.socket) -> Callable[[int], None]:
        return lambda _: self._hear(connection)

    def _hear(self, connection: socket.socket) -> None:
        peer = self._peers.get(connection)
        if peer is None:
            return
        try:
            body, fds, _flags = receive_with_fds(connection, _MAX_STATE)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        peer.body += body
        peer.fds += fds
        try:
            state = json.loads(peer.body.rstrip(b"\0"))
        except (ValueError, RecursionError):
            if not body:  # crun goes without a word if the start has failed
                self._drop(connection)
            elif len(peer.body) > _MAX_STATE:
                self._reject(connection)
            return
        if not isinstance(state, dict) or len(peer.fds) != 1 or not is_listener(peer.fds[0]):
            self._reject(connection)
            return
        if not self._heard(state, peer.fds.pop()):
            self.rejected += 1
        self._drop(connection)

    def _reject(self, connection: socket.socket) -> None:
        self.rejected += 1
        self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        peer = self._peers.pop(connection, None)
        if peer is not None:
            close_all(peer.fds)
            self._loop.forget(connection.fileno())
            connection.close()
            self._settle()

    def _settle(self) -> None:
        if not self._peers:
            waiting, self._waiting = self._waiting, []
            for then in waiting:
                then()


class RuntimeHandshake(RuntimeDoor):
    """Wait for the listeners of one container, for as long as it has an account."""

    def __init__(
        self, loop: Guard | Loop, path: str, flags: int, done: Callable[[Taken], bool]
    ) -> None:
        """Listen at *path*; call *done* with each listener, installed with *flags*."""
        self._path = path
        #: For engines that want the profile as a file, which its owner may write there.
        self.profile = f"{path}.json"
        self._flags = flags
        self._done = done
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(path)
        super().__init__(loop, listening, self._taken)

    def close(self) -> None:
        """Stop listening, and remove the socket and the profile."""
        super().close()
        for path in (self._path, self.profile):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _taken(self, state: dict[str, Any], fd: int) -> bool:
        said = _said(state)
        if said is None:
            os.close(fd)
            return False
        return self._done(Taken(Listener(fd), self._flags, *said))


def _said(state: Any) -> tuple[int, bool] | None:
    """Read which process a listener is of, and whether it entered a container already up.

    crun does not know the pid of one that enters, and says 0.
    """
    try:
        return int(state["pid"]), state["state"]["status"] == "running"
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
