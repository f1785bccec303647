"""Start controllers for clients that are elsewhere, beside a container engine on its own host.

Run as a container there (``containers/controller``), in the host's pid namespace: the engine's
containers can be counted from it. The directory of its socket is the host's, at the same path, so
that shim and sockets can be mounted into containers. A client comes in through its engine, with an
exec of ``--connect``: nobody needs a port, and whoever may use the engine may use this.
"""

from __future__ import annotations

import os
import platform
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.door import protocol
from kmem_harness.controller.owner.start import start_process
from kmem_harness.core.errors import ConfigurationError, KmemHarnessError
from kmem_harness.core.releases import check_profile_name

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

__all__ = ["SOCKET", "connect", "listen", "main"]

#: Where it listens unless told otherwise.
SOCKET = "/run/kmem-harness/listen.sock"

_CREDENTIALS = struct.Struct("=iII")
_PATIENCE_SECONDS = 10.0
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_SHIM = os.path.join(_PACKAGE, "interposer", "bin", "kmem-shim")
_USAGE = "usage: kmem-harness controller --listen [SOCKET [ENGINE_SOCKET]] | --connect [SOCKET]\n"


def listen(path: str = SOCKET, engine: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT, which ends every session.

    *engine* is the engine's own socket, if it is to be had here: through it, what is left of a
    session is removed when its client dies.
    Raises: ConfigurationError if nobody could come in at *path*.
    """
    directory = os.path.dirname(path) or "."
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{path!r}: there is no directory to make it in; mount one of the engine's host there, "
            f"at the same path (-v {directory}:{directory})"
        )
    shim = os.path.join(directory, "kmem-shim")
    sessions: dict[str, subprocess.Popen[bytes]] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        _sweep(directory, path)
        door.bind(path)
        os.chmod(path, 0o600)
        shutil.copy(_SHIM, shim)
        os.chmod(shim, 0o755)  # noqa: S103 - containers of any user execute it
        door.listen()
        facts = {"shim": shim, "engine": engine, "release": platform.release()}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _leave)
            for connection in _callers(door):
                for over in [here for here, child in sessions.items() if child.poll() is not None]:
                    del sessions[over]
                    shutil.rmtree(over, ignore_errors=True)  # there only if it was killed
                with connection:
                    sessions.update(_open_session(connection, path, facts))
        finally:
            for child in sessions.values():
                child.terminate()
            for here, child in sessions.items():
                child.wait(_PATIENCE_SECONDS)
                shutil.rmtree(here, ignore_errors=True)
            for left in (path, shim):
                with suppress(FileNotFoundError):
                    os.unlink(left)


def _callers(door: socket.socket) -> Iterator[socket.socket]:
    """Give each connection once it has something to say: one that is silent keeps nobody waiting."""
    silent: dict[socket.socket, float] = {}
    ready = selectors.DefaultSelector()
    ready.register(door, selectors.EVENT_READ)
    try:
        while True:
            for key, _ in ready.select(_PATIENCE_SECONDS if silent else None):
                if key.fileobj is door:
                    connection, _address = door.accept()
                    silent[connection] = time.monotonic() + _PATIENCE_SECONDS
                    ready.register(connection, selectors.EVENT_READ)
                else:
                    ready.unregister(key.fileobj)
                    connection = next(one for one in silent if one is key.fileobj)
                    del silent[connection]
                    yield connection
            for late in [one for one, until in silent.items() if until < time.monotonic()]:
                ready.unregister(late)
                del silent[late]
                late.close()
    finally:
        for connection in silent:
            connection.close()
        ready.close()


def _sweep(directory: str, path: str) -> None:
    """Remove what one that was killed has left. Raises: ConfigurationError if it is alive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock:
        if knock.connect_ex(path) == 0:
            raise ConfigurationError(
                f"{path!r}: a controller listens there already; stop that, or give another path"
            )
    with suppress(FileNotFoundError):
        os.unlink(path)
    for left in os.listdir(directory):
        if left.startswith(f"{os.path.basename(path)}."):
            shutil.rmtree(os.path.join(directory, left), ignore_errors=True)


def _open_session(
    connection: socket.socket, path: str, facts: dict[str, Any]
) -> dict[str, subprocess.Popen[bytes]]:
    """Start a controller that goes on talking over *connection*, if it asks for one.

    Shape: the directory of that session, and its process.
    """
    connection.settimeout(_PATIENCE_SECONDS)
    try:
        request, fds = protocol.receive(connection)
        protocol.close_all(fds)
        kernel = check_profile_name(str(request.get("kernel")))
        here = f"{path}.{os.urandom(4).hex()}"  # its own: what is swept is what we made
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        owner = os.pidfd_open(_CREDENTIALS.unpack(peer)[0])
        try:
            os.mkdir(here, 0o700)
            connection.setblocking(True)
            protocol.send(connection, {"ok": True, "directory": here, **facts})
            return {here: start_process(kernel, here, connection.fileno(), owner)}
        except BaseException:
            shutil.rmtree(here, ignore_errors=True)
            raise
        finally:
            os.close(owner)
    except (KmemHarnessError, OSError) as error:
        with suppress(OSError):
            protocol.send(connection, {"error": protocol.describe_error(error)})
    return {}


def _leave(*_: object) -> None:
    sys.exit(0)


def connect(path: str = SOCKET) -> None:
    """Carry messages between standard input and output and the socket at *path*, to either's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.connect(path)
        ready = selectors.DefaultSelector()
        ready.register(0, selectors.EVENT_READ)
        ready.register(door, selectors.EVENT_READ)
        waiting = b""
        while True:
            for key, _ in ready.select():
                if key.fd == 0:
                    read = os.read(0, protocol.MAX_PACKET)
                    if not read:
                        return
                    waiting = _pass_on(waiting + read, door)
                else:
                    message = door.recv(protocol.MAX_PACKET)
                    if not message:
                        return
                    _write_all(protocol.FRAME.pack(len(message)) + message)


def _pass_on(waiting: bytes, door: socket.socket) -> bytes:
    """Send what is whole of *waiting*, and give the rest."""
    while len(waiting) >= protocol.FRAME.size:
        end = protocol.FRAME.size + protocol.FRAME.unpack_from(waiting)[0]
        if len(waiting) < end:
            break
        door.send(waiting[protocol.FRAME.size : end])
        waiting = waiting[end:]
    return waiting


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main(arguments: list[str]) -> int:
    """Listen or connect, as the command line says."""
    actions = {"--listen": (listen, 2), "--connect": (connect, 1)}
    action, most = actions.get(arguments[0] if arguments else "", (None, 0))
    if action is None or len(arguments) - 1 > most:
        sys.stderr.write(_USAGE)
        return 2
    try:
        action(*arguments[1:])
    except (KmemHarnessError, OSError) as error:
        sys.stderr.write(f"kmem-harness controller: {error}\n")
        return 125
    return 0
