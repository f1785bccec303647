"""Listen for clients of the engine, and give each connection a thread of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.proxy.exchange import Side, pass_on
from kmem_harness.proxy.framing import Incoming, NotHttpError, answer
from kmem_harness.proxy.routes import route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.proxy.framing import Head
    from kmem_harness.proxy.routes import Route
    from kmem_harness.proxy.steps import Steps

__all__ = ["Proxy", "listening", "told_to_stop"]

#: Connections at once; more wait to be accepted.
_MOST_CLIENTS = 512
#: Who says nothing for so long in the middle of a request is let go of; between two, one may.
_SILENT_SECONDS = 60.0
_IDLE_SECONDS = 3600.0
_MOST_BODY = 16 << 20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JSON = (("Content-Type", "application/json"),)
_LONGEST_PATH = 107


class Proxy:
    """Serves clients of one engine until told to stop."""

    def __init__(self, door: socket.socket, engine: str, steps: Steps, log: Any) -> None:
        """Accept at *door*; the engine's socket is *engine*."""
        self._door = door
        self._engine = engine
        self._steps = steps
        self._log = log
        self._room = threading.BoundedSemaphore(_MOST_CLIENTS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def run(self, stop: int) -> None:
        """Accept until *stop*, a descriptor, is readable."""
        poll = select.poll()
        poll.register(stop, select.POLLIN)
        poll.register(self._door, select.POLLIN)
        self._door.listen(128)
        while stop not in {fd for fd, _ in poll.poll()}:
            self._room.acquire()
            try:
                connection, _ = self._door.accept()
            except OSError as error:
                self._room.release()
                self._log.warning("client.lost", error=str(error))
                continue
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Hang up on everybody."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket) -> None:
        session = _Session(Side(connection), self._engine, self._steps, self._log)
        try:
            session.run()
        except NotHttpError as error:
            session.complain(400, f"this is no HTTP request: {error}")
        except OSError as error:  # one of both has gone
            self._log.debug("client.gone", error=str(error))
        except Exception as error:  # noqa: BLE001 - one client's trouble is not the others'
            self._log.error("request.failed", error=str(error), exc_info=True)
            session.complain(500, f"the proxy failed at this request: {error!r}")
        finally:
            with self._lock:
                self._open.discard(connection)
            session.close()
            self._room.release()


class _Session:
    """One client's connection, and ours to the engine for it."""

    def __init__(self, client: Side, engine: str, steps: Steps, log: Any) -> None:
        self._client = client
        self._path = engine
        self._engine: Side | None = None
        self._steps = steps
        self._log = log

    def run(self) -> None:
        """Serve request after request. Raises: OSError, NotHttpError."""
        waiting: bytes | None = b""
        while waiting is not None:
            request, raw, waiting = self._head(waiting)
            if request is None or request.head is None:
                return
            head = request.head
            wanted = route(head.method, head.path)
            if wanted is not None and self._steps.concerns(wanted, head):
                waiting = self._carry_out(request, wanted, head, waiting)
            else:
                waiting = pass_on(self._client, self._reach(), request, head, (raw, waiting))

    def close(self) -> None:
        """Hang up on both."""
        for side in (self._client, self._engine):
            if side is not None:
                side.socket.close()

    def _head(self, waiting: bytes) -> tuple[Incoming | None, bytes, bytes]:
        """Read until a request's first lines are there; give what came of it, and what beyond it.

        Raises: OSError, NotHttpError, TimeoutError.
        """
        request = Incoming()
        raw = b""
        while True:
            if waiting:
                rest = request.feed(waiting)
                raw += waiting[: len(waiting) - len(rest)]
                waiting = rest
                if request.head is not None:
                    return request, raw, waiting
            data = _await(self._client, _SILENT_SECONDS if raw else _IDLE_SECONDS)
            if not data:
                if raw:
                    raise NotHttpError("the request ends too early")
                return None, b"", b""
            waiting = data

    def _carry_out(self, request: Incoming, wanted: Route, head: Head, waiting: bytes) -> bytes:
        """Answer a request that concerns us; give what the client has sent beyond it."""
        if request.is_hesitant:
            self._client.write_all(_CONTINUE, _SILENT_SECONDS)
        while not request.is_whole:
            data = _await(self._client, _SILENT_SECONDS)
            if not data:
                raise NotHttpError("the request ends too early")
            waiting = request.feed(data)
            if len(request.body) > _MOST_BODY:
                raise NotHttpError(f"a request of over {_MOST_BODY} bytes")
        made = self._steps.carry_out(wanted, head, request.body)
        self._log.debug("request.carried_out", what=wanted.what, status=made.status)
        closes = head.get("connection").lower() == "close"
        body = b"" if head.method == "HEAD" else made.body
        self._client.write_all(
            answer(made.status, made.headers, body, close=closes), _SILENT_SECONDS
        )
        if closes:
            self._client.tell_the_end()
        return waiting

    def _reach(self) -> Side:
        """Give the connection to the engine, a new one where that has hung up. Raises: OSError."""
        if self._engine is not None and self._engine.is_stale():
            self._engine.socket.close()
            self._engine = None
        if self._engine is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self._path)
            except OSError as error:
                connection.close()
                why = f"the engine at {self._path} does not answer: {error.strerror}; start it"
                self.complain(502, why)
                raise
            self._engine = Side(connection)
        return self._engine

    def complain(self, status: int, sentence: str) -> None:
        """Say what is wrong in the engine's own shape, if the client still listens."""
        body = json.dumps({"message": f"kmem-harness proxy: {sentence}"}).encode()
        with suppress(OSError):
            self._client.write_all(answer(status, _JSON, body, close=True), 1.0)
            self._client.tell_the_end()


def _await(client: Side, seconds: float) -> bytes:
    """Read something, nothing at the end. Raises: OSError, TimeoutError."""
    poll = select.poll()
    poll.register(client.socket, select.POLLIN)
    if not poll.poll(seconds * 1000):
        raise TimeoutError(f"nothing came for {seconds} s")
    return client.read() or b""


@contextmanager
def listening(address: str, engine: str) -> Iterator[socket.socket]:
    """Give a socket at *address*, open for whoever may use the engine's own; it is gone afterwards.

    Raises: ConfigurationError.
    """
    scheme, separator, text = address.partition("://")
    if not separator:
        scheme, text = "unix", address
    if scheme != "unix" or not text.startswith("/") or len(os.fsencode(text)) > _LONGEST_PATH:
        raise ConfigurationError(
            f"--listen {address!r}: give unix:///path/of/a.sock, of at most {_LONGEST_PATH} bytes; over a "
            "network, anybody could have root of this machine"
        )
    path = Path(text)
    with socket.socket(socket.AF_UNIX) as knock:
        if knock.connect_ex(text) == 0:
            raise ConfigurationError(
                f"--listen {address!r}: somebody listens there already; give another path"
            )
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigurationError(f"--listen {address!r} is there, and no socket; give another")
    door = socket.socket(socket.AF_UNIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            door.bind(text)
        finally:
            os.umask(before)
        like = Path(engine).stat()
        with suppress(PermissionError):
            os.chown(path, -1, like.st_gid)
        path.chmod(stat.S_IMODE(like.st_mode) & 0o660)
    except OSError as error:
        door.close()
        raise ConfigurationError(f"--listen {address!r}: {error.strerror}; give another") from error
    except BaseException:
        door.close()
        raise
    try:
        with door:
            yield door
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def told_to_stop() -> Iterator[int]:
    """Give a descriptor that is readable once SIGTERM or SIGINT has come."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    before = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield told
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(told)
        os.close(tell)
