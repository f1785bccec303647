"""Start a controller process and talk to it. Knows the protocol; knows no containers.

One request at a time goes over one connection; any thread may ask.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.door import protocol
from kmem_harness.controller.owner.removal import remove_tree
from kmem_harness.controller.owner.start import base_directories, prefix, start
from kmem_harness.core.errors import ConfigurationError, KmemHarnessError
from kmem_harness.procfs.readable import is_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmem_harness.controller.owner.start import Started

__all__ = ["Connection", "Controller", "ControllerDiedError", "connect_running", "running"]

_ANSWER_SECONDS = 30.0
_GOODBYE_SECONDS = 5.0


class ControllerDiedError(KmemHarnessError):
    """The controller process is gone; its boxes were ended with it."""


class Connection:
    """A control connection to a running controller."""

    #: Whether the controller is on another machine, or looks at this one from elsewhere.
    remote = False

    def __init__(self, connection: socket.socket) -> None:
        """Talk over *connection*, which is closed by :meth:`close`."""
        self._socket = connection
        self._socket.settimeout(_ANSWER_SECONDS)
        self._lock = threading.Lock()
        self._nr_requests = 0
        self._owner = os.getpid()
        #: Told of each memcg that a handle removed, with its last counters.
        self.when_removed: Callable[[str, dict[str, Any]], None] | None = None

    def is_ours(self) -> bool:
        """Whether this process made it, and was not forked off the one that did."""
        return os.getpid() == self._owner

    def request(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        """Ask for one operation and give the reply.

        Raises: whatever the controller raised; ControllerDiedError if it does not answer;
        ConfigurationError in a process forked off ours, which would take our answers.
        """
        if not self.is_ours():
            raise ConfigurationError(
                f"this harness belongs to process {self._owner}, and process {os.getpid()} was "
                "forked off it: make a Harness of its own there"
            )
        with self._lock:
            try:
                self._nr_requests += 1
                message = {"op": op, "serial": self._nr_requests, **fields}
                protocol.send(self._socket, message, fds)
                reply, _ = protocol.receive(self._socket)
                # A request that Ctrl-C or a timeout broke off is answered all the same.
                while reply.get("serial", self._nr_requests) != self._nr_requests:
                    reply, _ = protocol.receive(self._socket)
            except ConnectionError as error:
                reply = self._last_words()
                if not reply:
                    raise _did_not_answer(op, error) from error
            except (OSError, protocol.ConnectionEndedError) as error:
                raise _did_not_answer(op, error) from error
        if "error" in reply:
            raise protocol.error_from(reply["error"])
        return reply

    def make(self, path: str, *, parents: bool = False) -> None:
        """Add a memcg. Raises: OSError as mkdir in a cgroupfs would."""
        self.request("make", path=path, parents=parents)

    def remove(self, path: str) -> None:
        """Take a memcg away. Raises: OSError as rmdir in a cgroupfs would."""
        self.request("remove", path=path)

    def read(self, path: str, file: str) -> str:
        """Give a control file's text, true to a fresh census. Raises: OSError, as the kernel's."""
        value = self.request("read", path=path, file=file)["value"]
        return str(value)

    def write(self, path: str, file: str, value: str) -> None:
        """Give a control file a new value. Raises: OSError, as the kernel's."""
        self.request("write", path=path, file=file, value=value)

    def ls(self, path: str) -> list[str]:
        """List a memcg's directory."""
        return list(self.request("ls", path=path)["entries"])

    def modes(self, path: str) -> dict[str, int]:
        """Give the mode of each entry of a memcg's directory, type bits included."""
        return dict(self.request("ls", path=path, modes=True)["modes"])

    def children(self, path: str) -> list[str]:
        """Name the memcgs right below *path*."""
        return list(self.request("children", path=path)["names"])

    def counters(self, path: str, *, census: bool = True) -> dict[str, Any]:
        """Give the counters of a memcg in the shape of the report's ``memcg``. Units: bytes."""
        row = self.request("counters", path=path, census=census)["memcg"]
        return dict(row)

    def survey(self) -> list[dict[str, Any]]:
        """Give counters and boxes of all memcgs, by path, after a census.

        Shape: rows in the shape of the report's ``memcg``, with ``boxes`` and their live kinds.
        """
        rows: list[dict[str, Any]] = []
        more = True
        while more:
            reply = self.request("survey", after=rows[-1]["path"] if rows else "")
            rows += reply["memcgs"]
            more = reply["more"]
        return rows

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """Give each refusal below *path* as it happens; this connection is then only for that."""
        self.request("watch", path=path)
        self._socket.settimeout(None)
        return self._events()

    def _last_words(self) -> dict[str, Any]:
        """Give why the controller turned us away, if it said so.

        It hangs up on whoever it refuses without reading what was asked, which is an error to us
        before the reason is read.
        """
        with suppress(OSError, protocol.ConnectionEndedError):
            while True:
                reply, _ = protocol.receive(self._socket)
                if "serial" not in reply:
                    return reply
        return {}

    def _events(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                event, _ = protocol.receive(self._socket)
            except (OSError, protocol.ConnectionEndedError):
                return
            yield event

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _did_not_answer(op: str, error: Exception) -> ControllerDiedError:
    return ControllerDiedError(f"the controller did not answer {op!r}: {error}")


class Controller(Connection):
    """A controller process of our own: it ends when we close it, and when we die."""

    def __init__(self, kernel: str, started: Started | None = None) -> None:
        """Start a controller that emulates *kernel*, or take over one that was *started*.

        It is ready when it answers. Raises: UnsupportedHostError where the host lacks pidfds;
        ConfigurationError.
        """
        started = started or start(kernel)
        self.kernel = kernel
        self.directory = started.directory
        self._process = started.process
        #: Readable once the controller is dead: boxes are tied to it.
        self.pidfd = os.pidfd_open(self._process.pid)
        super().__init__(started.connection)

    @property
    def pid(self) -> int:
        """The controller's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the controller process still runs."""
        return self._process.poll() is None

    def second_connection(self) -> Connection:
        """Connect once more, for what keeps a connection to itself."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(os.path.join(self.directory, "control.sock"))
        except OSError as error:
            connection.close()
            raise ControllerDiedError(f"the controller cannot be reached: {error}") from error
        return Connection(connection)

    def close(self) -> None:
        """Say goodbye, see the process end, and remove what a killed one left behind.

        A process that was forked off ours ends nothing.
        """
        if not self.is_ours():
            return
        with suppress(OSError):  # heard even where a process forked off us holds on to a copy
            self._socket.shutdown(socket.SHUT_RDWR)
        super().close()
        if self.pidfd >= 0:
            # Not Popen.wait(timeout): that looks again later and later, and ends late.
            if not is_readable(self.pidfd, _GOODBYE_SECONDS):
                with suppress(OSError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self._process.wait()
            os.close(self.pidfd)
            self.pidfd = -1
        self.sweep()

    def sweep(self) -> None:
        """Remove the directory of a dead controller; a living one does so itself."""
        remove_tree(self.directory)


def connect_running() -> Connection:
    """Connect to the newest running controller of our own user.

    Raises: ConfigurationError if none runs.
    """
    for path in running():
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(path)
        except OSError:  # left by a controller that was killed together with its owner
            connection.close()
            continue
        return Connection(connection)
    message = "no harness of yours is running; start one with kmem-harness run, or in Python"
    raise ConfigurationError(message)


def running() -> list[str]:
    """List the control sockets of our own user's controllers.

    Those that an environment like ours would start come first, the newest of them leading.
    """
    found: list[str] = []
    for base in base_directories():
        here = []
        with suppress(OSError):
            for name in os.listdir(base):
                path = os.path.join(base, name, "control.sock")
                if name.startswith(prefix()):
                    with suppress(OSError):  # it is just ending
                        here.append((os.path.getmtime(path), path))
        found += [path for _, path in sorted(here, reverse=True)]
    return found
