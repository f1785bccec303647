"""Talk to a controller that runs on the host of an engine that is elsewhere, through that engine.

The controller is a container there (``containers/controller``). A connection to it is an exec in
that container, whose input and output carry the messages: whatever way docker-py has to the engine,
be it ssh, tcp or a socket mounted from outside, is the way to the controller.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker
import docker.errors
import requests.exceptions
from docker.utils import kwargs_from_env

from kmem_harness.controller.door.protocol import FRAME, MAX_PACKET, error_from, receive, send
from kmem_harness.controller.owner.client import Connection, ControllerDiedError
from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from kmem_harness.procfs.readable import is_readable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HOW_TO_START", "SidecarController"]

_SCHEME = "docker://"
_COMMAND = ["kmem-harness", "controller", "--connect"]
#: One frame of an engine's attached stream: which of its streams, and how long.
_HEADER = struct.Struct("!BxxxI")
_STDOUT = 1
HOW_TO_START = (
    "start the controller there: python containers/build.py controller, then docker run -d --name "
    "kmem-controller --pid host -v /run/kmem-harness:/run/kmem-harness "
    "-v /var/run/docker.sock:/var/run/docker.sock kmem-controller, and say "
    "--controller docker://kmem-controller"
)


class SidecarController(Connection):
    """A session of its own with the controller in a container; it ends when we close it, or die."""

    remote = True

    def __init__(self, kernel: str, address: str) -> None:
        """Have the container at *address* emulate *kernel*.

        That is ``docker://NAME``, or ``docker://NAME/PATH`` if it does not listen at the usual path.

        Raises: ConfigurationError, UnsupportedHostError if it cannot be reached.
        """
        name, _, path = address.removeprefix(_SCHEME).partition("/")
        if not address.startswith(_SCHEME) or not name:
            raise ConfigurationError(
                f"controller {address!r} is no address: give docker://NAME, of the container on the "
                "engine's host that kmem-harness controller runs in"
            )
        self.kernel = kernel
        self._name = name
        try:
            self._api = docker.APIClient(**kwargs_from_env(), version="auto")
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise _unreachable(name, error) from error
        self._relays: list[_Relay] = []
        try:
            facts = self._open(kernel, *([f"/{path}"] if path else []))
        except BaseException:
            self._hang_up()
            raise
        self.directory = str(facts["directory"])
        #: Where containers of that engine find the shim, and the controller the engine's socket.
        self.shim = str(facts["shim"])
        self.engine_socket = facts["engine"]
        self.release = str(facts["release"])
        #: Readable once the controller cannot be reached any more.
        self.pidfd = self._relays[0].ended

    def _open(self, kernel: str, *path: str) -> dict[str, Any]:
        """Open the session: the first message is answered by who listens, the rest by a controller."""
        ours = self._connect(*path)
        super().__init__(ours)
        try:
            send(ours, {"kernel": kernel})
            facts, _ = receive(ours)
        except (OSError, ControllerDiedError) as error:
            raise _unreachable(self._name, error) from error
        except Exception as error:
            said = self._relays[0].said
            raise _unreachable(self._name, said or error) from error
        if "error" in facts:
            raise error_from(facts["error"])
        return facts

    @property
    def alive(self) -> bool:
        """Whether it can be reached."""
        return not is_readable(self.pidfd, 0)

    def request(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        """Ask for one operation. Raises: ConfigurationError for files, which stay on this machine."""
        if fds:
            raise ConfigurationError(
                "events cannot be written by a controller on another machine; leave them out, and "
                "watch it instead (kmem_refused of a plugin)"
            )
        return super().request(op, **fields)

    def second_connection(self) -> Connection:
        """Connect once more, for what keeps a connection to itself."""
        return Connection(self._connect(f"{self.directory}/control.sock"))

    def close(self) -> None:
        """Say goodbye; the session ends with that."""
        super().close()
        self._hang_up()

    def _connect(self, *path: str) -> socket.socket:
        """Give our end of a connection that an exec carries."""
        try:
            made = self._api.exec_create(self._name, [*_COMMAND, *path], stdin=True)
            stream = self._api.exec_start(made["Id"], socket=True)
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise _unreachable(self._name, error) from error
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._relays.append(_Relay(theirs, stream))
        return ours

    def _hang_up(self) -> None:
        for relay in self._relays:
            relay.close()
        self._api.close()


class _Relay:
    """Carries messages between a socket of ours and an engine's attached stream, in a thread."""

    def __init__(self, local: socket.socket, stream: Any) -> None:
        self._local = local
        self._stream = stream
        # docker-py gives a file around the socket; over ssh and tls, the connection itself.
        self._far = getattr(stream, "_sock", stream)
        self.said = ""
        #: Readable once the stream has ended.
        self.ended, self._end = os.pipe()
        self._stopping, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="kmem-harness-relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Carry nothing more; the other side sees the end of its input."""
        with suppress(OSError):
            os.close(self._stop)
        self._thread.join(5)
        for fd in (self.ended, self._stopping):
            with suppress(OSError):
                os.close(fd)

    def _carry(self) -> None:
        poll = select.poll()
        for fd in (self._local.fileno(), self._far.fileno(), self._stopping):
            poll.register(fd, select.POLLIN)
        unpack = _Unpacker(self._local.send, self._hear)
        with suppress(OSError), self._local:
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if self._far.fileno() in ready:
                    data = self._far.recv(MAX_PACKET)
                    if not data:
                        break
                    unpack.feed(data)
                if self._local.fileno() in ready:
                    message = self._local.recv(MAX_PACKET)
                    if not message:
                        break
                    self._far.sendall(FRAME.pack(len(message)) + message)
                if self._stopping in ready:
                    break
        with suppress(OSError):
            self._far.close()
            self._stream.close()
        os.close(self._end)

    def _hear(self, text: bytes) -> None:
        self.said = (self.said + text.decode("utf-8", "replace"))[-1000:].strip()


class _Unpacker:
    """Takes messages out of frames of an engine's, in whatever pieces they come."""

    def __init__(self, deliver: Callable[[bytes], Any], hear: Callable[[bytes], None]) -> None:
        self._deliver = deliver
        self._hear = hear
        self._raw = b""
        self._output = b""

    def feed(self, data: bytes) -> None:
        """Take what has come, and deliver what is whole; what is no output goes to *hear*."""
        self._raw += data
        while len(self._raw) >= _HEADER.size:
            which, length = _HEADER.unpack_from(self._raw)
            end = _HEADER.size + length
            if len(self._raw) < end:
                break
            body, self._raw = self._raw[_HEADER.size : end], self._raw[end:]
            if which == _STDOUT:
                self._output += body
            else:
                self._hear(body)
        while len(self._output) >= FRAME.size:
            end = FRAME.size + FRAME.unpack_from(self._output)[0]
            if len(self._output) < end:
                break
            self._deliver(self._output[FRAME.size : end])
            self._output = self._output[end:]


def _unreachable(name: str, why: object) -> UnsupportedHostError:
    return UnsupportedHostError(
        f"the controller in container {name!r} cannot be reached: {why}",
        missing="a controller on the engine's host",
        remedy=HOW_TO_START,
    )
