"""Tell where each HTTP message on a connection ends, and leave its bytes alone. Pure.

h11 reads; what is passed on are the bytes that came, to the last one.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import h11

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Head", "Incoming", "NotHttpError", "Reply", "answer"]

#: Of a message's first lines; an engine's own limit is 1 MiB.
_MOST_HEAD = 1 << 16
_WITHOUT_BODY = frozenset({204, 304})
_KNOWN = frozenset(HTTPStatus)


class NotHttpError(Exception):
    """What came is not HTTP, or more of it than anybody has to say."""


class Head(NamedTuple):
    """The first lines of a request; names of headers are in lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        """The target's path as an engine's router reads it, without what is asked."""
        return re.sub("/+", "/", unquote(self.target.partition("?")[0]))

    def get(self, name: str) -> str:
        """Give a header, empty if there is none."""
        return next((value for key, value in self.headers if key == name), "")


class Incoming:
    """One request: fed with bytes, it takes its own and leaves the rest."""

    def __init__(self) -> None:
        """Wait for the first byte."""
        self._reader = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)
        self.head: Head | None = None
        #: Where to say that a body is awaited.
        self.is_hesitant = False
        self.body = b""
        self.is_whole = False

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to this request, and give the rest. Raises: NotHttpError."""
        try:
            self._reader.receive_data(data)
            while not self.is_whole:
                event = self._reader.next_event()
                if event is h11.NEED_DATA:
                    break
                if isinstance(event, h11.Request):
                    self.head = Head(
                        event.method.decode("ascii"),
                        event.target.decode("ascii"),
                        tuple((k.decode("latin1"), v.decode("latin1")) for k, v in event.headers),
                    )
                    self.is_hesitant = self._reader.they_are_waiting_for_100_continue
                elif isinstance(event, h11.Data):
                    self.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.is_whole = True
                else:  # the connection was closed in between
                    raise NotHttpError("the request ends too early")
        except h11.RemoteProtocolError as error:
            raise NotHttpError(str(error)) from error
        return self._reader.trailing_data[0] if self.is_whole else b""

    def take_body(self) -> bytes:
        """Give what came of the body, and forget it: it is passed on as it came."""
        body, self.body = self.body, b""
        return body


class Reply:
    """The answer to one request, told apart from what follows it."""

    def __init__(self, head: Head) -> None:
        """Wait for the answer to a request of *head*."""
        self._reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)
        # What it is told of the request decides how an answer ends; nothing is sent of that.
        headers = [(k, v) for k, v in head.headers if k in ("connection", "upgrade")]
        self._reader.send(
            h11.Request(method=head.method, target=head.target, headers=[("host", ""), *headers])
        )
        self._reader.send(h11.EndOfMessage())
        self.status = 0
        self.is_whole = False
        #: From here on it is no HTTP any more: both sides say what they like.
        self.is_raw = False
        self.ends_connection = False

    def feed(self, data: bytes, *, hijacks: bool) -> None:
        """Take bytes of the engine's, empty at its end. Raises: NotHttpError.

        *hijacks* says whether an answer of no stated length is a stream in both directions.
        """
        if self.is_raw:
            return
        try:
            self._reader.receive_data(data)
            while not (self.is_whole or self.is_raw):
                event = self._reader.next_event()
                if event is h11.NEED_DATA:
                    return
                self._note(event, hijacks=hijacks)
        except h11.RemoteProtocolError as error:
            raise NotHttpError(str(error)) from error
        self.ends_connection = self._reader.their_state is not h11.DONE

    def _note(self, event: Any, *, hijacks: bool) -> None:
        if event is h11.PAUSED:
            self.is_raw = True
        elif isinstance(event, (h11.InformationalResponse, h11.Response)):
            self.status = event.status_code
            names = {name.lower() for name, _ in event.headers}
            endless = not names & {b"content-length", b"transfer-encoding"}
            self.is_raw = self.status == HTTPStatus.SWITCHING_PROTOCOLS or (
                hijacks
                and endless
                and isinstance(event, h11.Response)
                and self.status not in _WITHOUT_BODY
            )
        elif isinstance(event, h11.EndOfMessage):
            self.is_whole = True
        elif isinstance(event, h11.ConnectionClosed):
            raise NotHttpError("the engine hung up before it answered")


def answer(
    status: int, headers: Iterable[tuple[str, str]], body: bytes, *, close: bool = False
) -> bytes:
    """Put an answer of our own together; a length is added, and whether the connection ends."""
    lines = [f"{name}: {value}" for name, value in headers]
    if status not in _WITHOUT_BODY:
        lines.append(f"Content-Length: {len(body)}")
    if close:
        lines.append("Connection: close")
    reason = HTTPStatus(status).phrase if status in _KNOWN else "-"
    head = "\r\n".join([f"HTTP/1.1 {status} {reason}", *lines, "", ""]).encode("latin1")
    return head if status in _WITHOUT_BODY else head + body
