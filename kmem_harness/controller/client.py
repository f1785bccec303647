"""Start a controller process and talk to it. Knows the protocol; knows no containers.

One request at a time goes over one connection; any thread may ask.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.controller import protocol
from kmem_harness.controller.removal import remove_tree
from kmem_harness.controller.setting import fast_path_setting
from kmem_harness.core.errors import ConfigurationError, KmemHarnessError, UnsupportedHostError
from kmem_harness.interposer.readable import is_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Connection", "Controller", "ControllerDiedError", "connect_running", "running"]

_ANSWER_SECONDS = 30.0
_GOODBYE_SECONDS = 5.0
# A socket address holds 107 bytes, of which our own names take less than 60.
_LONGEST_BASE = 45
# -I and -S: no environment, no site-packages. It needs the standard library and this package,
# and so starts in half the time, whatever is installed beside us.
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from kmem_harness.controller.__main__ import main; main()"
)


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
        #: Told of each memcg that a handle removed, with its last counters.
        self.when_removed: Callable[[str, dict[str, Any]], None] | None = None

    def request(self, op: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        """Ask for one operation and give the reply.

        Raises: whatever the controller raised; ControllerDiedError if it does not answer.
        """
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

    def __init__(self, kernel: str) -> None:
        """Start a controller that emulates *kernel*; it is ready when it answers.

        Raises: UnsupportedHostError where the host lacks pidfds; ConfigurationError.
        """
        fast_path_setting()
        self.kernel = kernel
        self.directory = control_directory()
        os.mkdir(self.directory, 0o700)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            owner = _own_pidfd()
            with theirs:
                self._process = start_process(kernel, self.directory, theirs.fileno(), owner)
            os.close(owner)
        except BaseException:
            ours.close()
            os.rmdir(self.directory)
            raise
        #: Readable once the controller is dead: boxes are tied to it.
        self.pidfd = os.pidfd_open(self._process.pid)
        super().__init__(ours)

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
        """Say goodbye, see the process end, and remove what a killed one left behind."""
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


def start_process(
    kernel: str, directory: str, connection: int, owner: int
) -> subprocess.Popen[bytes]:
    """Start a controller that talks over *connection* and ends with *owner*, a pidfd."""
    return subprocess.Popen(
        [
            sys.executable,
            *("-I", "-S", "-c", _START),
            os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
            *(kernel, directory, str(connection), str(owner)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(connection, owner),
    )


def control_directory() -> str:
    """Choose a fresh path for a controller's sockets, short enough for a socket address."""
    return f"{_base_directories()[0]}/{_prefix()}{os.getpid()}-{os.urandom(4).hex()}"


def running() -> list[str]:
    """List the control sockets of our own user's controllers.

    Those that an environment like ours would start come first, the newest of them leading.
    """
    found: list[str] = []
    for base in _base_directories():
        here = []
        with suppress(OSError):
            for name in os.listdir(base):
                path = os.path.join(base, name, "control.sock")
                if name.startswith(_prefix()):
                    with suppress(OSError):  # it is just ending
                        here.append((os.path.getmtime(path), path))
        found += [path for _, path in sorted(here, reverse=True)]
    return found


def _prefix() -> str:
    return f"kmem-harness-{os.geteuid()}-"


def _base_directories() -> list[str]:
    candidates = [os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("TMPDIR", ""), "/tmp"]  # noqa: S108 - a fresh 0700 directory is made in it
    return [
        base
        for base in candidates
        if base and len(base) <= _LONGEST_BASE and os.access(base, os.W_OK | os.X_OK)
    ]


def _own_pidfd() -> int:
    try:
        return os.pidfd_open(os.getpid())
    except OSError as error:
        message = f"pidfd_open: {error.strerror}"
        raise UnsupportedHostError(
            message, missing="pidfd_open", remedy="run on Linux 5.5 or later"
        ) from error
