"""The standing controller: sockets, signals, and an end that leaves nothing unlimited."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from kmem_harness.controller.door.peers import is_within
from kmem_harness.controller.door.protocol import (
    ConnectionEndedError,
    close_all,
    describe_error,
    receive,
    send,
)
from kmem_harness.controller.lifecycle.runtime_handshake import RuntimeDoor
from kmem_harness.controller.loop import OUT_OF_DESCRIPTORS, READABLE, Loop
from kmem_harness.core.errors import ConfigurationError, KmemHarnessError
from kmem_harness.harness import Harness
from kmem_harness.serve.accounts import Accounts
from kmem_harness.serve.places import control_of, runtime_of
from kmem_harness.serve.refusals import RefusalLog
from kmem_harness.serve.state import State
from kmem_harness.serve.wrapper import WrapperDoor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Settings", "run"]

_LONGEST_PATH = 107  # of a socket's address
#: The first descriptor that systemd hands over.
_FIRST_GIVEN = 3
_MOST_CLIENTS = 64


class Settings(NamedTuple):
    """What a standing controller is asked for. *keep* in seconds; *memcgs* are paths and limits."""

    path: Path
    state: Path
    kernel: str
    keep: float
    memcgs: tuple[tuple[str, str], ...] = ()
    events: str | None = None


def run(settings: Settings, log: Any) -> int:
    """Serve until SIGTERM or SIGINT; give the exit status: 0, or 1 if the controller died.

    Raises: ConfigurationError where another one has the state or the socket; UnsupportedHostError.
    """
    with ExitStack() as stack:
        state = State(settings.state)
        stack.callback(state.close)
        events = _events(settings.events, stack)
        door = stack.enter_context(_listening(settings.path, socket.SOCK_STREAM, given=True))
        control = stack.enter_context(_listening(control_of(settings.path), socket.SOCK_SEQPACKET))
        wrapped = stack.enter_context(_listening(runtime_of(settings.path), socket.SOCK_STREAM))
        harness = stack.enter_context(Harness(settings.kernel, plugins=[RefusalLog(log)]))
        for path, limit in settings.memcgs:
            harness.memcg(path, limit)
        loop = Loop()
        accounts = Accounts(harness, loop, state, log, settings.keep, events)
        for ident, facts in state.left_open():
            log.error(
                "container.lost", container=ident, reason="its controller was killed", **facts
            )
        ended = _End(loop)
        stack.callback(ended.close)
        loop.watch(harness.controller.pidfd, lambda _: ended.because("controller.died", 1))
        runtimes = RuntimeDoor(loop, door, accounts.arrived)
        stack.callback(runtimes.close)
        clients = _Clients(loop, control, accounts)
        stack.callback(clients.close)
        wrappers = WrapperDoor(loop, wrapped, harness, settings.path)
        stack.callback(wrappers.close)
        log.info(
            "serve.started",
            pid=os.getpid(),
            kernel=settings.kernel,
            socket=str(settings.path),
            state=str(settings.state),
        )
        try:
            with suppress(InterruptedError):
                loop.run()
        except BaseException:
            ended.because("controller.failed", 1)
            raise
        finally:
            if ended.status:
                log.error(ended.reason)
            accounts.end_all(ended.reason)
            log.info("serve.stopped", status=ended.status)
        return ended.status


class _End:
    """Ends the loop at a signal, or for another reason."""

    def __init__(self, loop: Loop) -> None:
        self.reason = "serve.stopping"
        self.status = 0
        self._loop = loop
        told, tell = socket.socketpair()
        for one in (told, tell):
            one.setblocking(False)
        self._pair = told, tell
        signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.stop())
        loop.watch(told.fileno(), lambda _: None)

    def because(self, reason: str, status: int) -> None:
        self.reason, self.status = reason, status
        self._loop.stop()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for one in self._pair:
            one.close()


class _Clients:
    """Those who want to know something."""

    def __init__(self, loop: Loop, listening: socket.socket, accounts: Accounts) -> None:
        self._loop = loop
        self._listening = listening
        self._accounts = accounts
        self._clients: list[socket.socket] = []
        listening.setblocking(False)
        listening.listen()
        loop.watch(listening.fileno(), self._accept)

    def close(self) -> None:
        for each in list(self._clients):
            self._drop(each)
        self._loop.forget(self._listening.fileno())

    def _accept(self, _: int) -> None:
        try:
            connection, _address = self._listening.accept()
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                self._loop.rest(self._listening, self._accept)
            return
        connection.setblocking(False)
        if len(self._clients) >= _MOST_CLIENTS:
            self._drop(self._clients[0])
        self._clients.append(connection)
        self._loop.watch(connection.fileno(), lambda events: self._hear(connection, events))

    def _hear(self, connection: socket.socket, events: int) -> None:
        try:
            request, fds = receive(connection) if events & READABLE else ({}, [])
            close_all(fds)
            reply = self._answer(connection, request)
        except BlockingIOError:
            return
        except (ConnectionEndedError, OSError):
            self._drop(connection)
            return
        except KmemHarnessError as error:
            reply = {"error": describe_error(error)}
        try:
            send(connection, reply)
        except OSError:
            self._drop(connection)

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        if is_within(connection, self._accounts.inits()):
            raise ConfigurationError("whoever runs in a container may not ask its controller")
        operation = request.get("op")
        if operation == "accounts":
            return {"ok": True, "accounts": self._accounts.list()}
        if operation == "report":
            return {"ok": True, "report": self._accounts.report(str(request.get("id")))}
        raise ConfigurationError(
            f"operation {operation!r} is not known; known are accounts, report"
        )

    def _drop(self, connection: socket.socket) -> None:
        if connection in self._clients:
            self._clients.remove(connection)
            self._loop.forget(connection.fileno())
            connection.close()


@contextmanager
def _listening(path: Path, kind: int, *, given: bool = False) -> Iterator[socket.socket]:
    """Give a socket at *path*, which is gone afterwards; or the one that systemd has *given* us.

    Raises: ConfigurationError.
    """
    if given and os.environ.pop("LISTEN_PID", "") == str(os.getpid()):
        with socket.socket(fileno=_FIRST_GIVEN) as from_systemd:
            yield from_systemd
        return
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigurationError(
            f"socket {str(path)!r} is over {_LONGEST_PATH} bytes long; name a shorter path with "
            "--socket"
        )
    listening = socket.socket(socket.AF_UNIX, kind)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX, kind) as knock:
            if knock.connect_ex(str(path)) == 0:
                raise ConfigurationError(
                    f"socket {str(path)!r}: another kmem-harness serve listens there; stop that one, or "
                    "give another --socket and --state"
                )
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"socket {str(path)!r}: {error.strerror or error}; name a path of yours with --socket"
        ) from error
    try:
        with listening:
            yield listening
    finally:
        path.unlink(missing_ok=True)


def _events(path: str | None, stack: ExitStack) -> int | None:
    if path is None:
        return None
    try:
        events = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigurationError(
            f"events {path!r}: {error.strerror}; name a file that can be written"
        ) from error
    stack.callback(os.close, events)
    return events
