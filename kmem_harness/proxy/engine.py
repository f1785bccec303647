"""Ask an engine one thing, as a client's request did, and keep the answer as it was."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from kmem_harness.proxy.framing import Head

__all__ = ["Answer", "RefusedError", "ask", "json_answer"]

#: Headers of one connection, not of what is said over it.
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "transfer-encoding", "upgrade"}
)
_REFUSED = 300


class Answer(NamedTuple):
    """What the engine said."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Read it."""
        found: dict[str, Any] = json.loads(self.body or b"{}")
        return found


class RefusedError(Exception):
    """The engine refused; its answer is the client's."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"the engine answered {answer.status}")
        self.answer = answer


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def ask(path: str, head: Head, body: bytes) -> Answer:
    """Ask the engine at the socket *path* what *head* asks, with another *body*.

    Raises: RefusedError for an answer that is no success; OSError, http.client.HTTPException.
    """
    connection = _Connection(path)
    try:
        headers = {name: value for name, value in head.headers if name not in _HOP_BY_HOP}
        connection.request(head.method, head.target, body=body or None, headers=headers)
        reply = connection.getresponse()
        kept = tuple(
            (name, value) for name, value in reply.getheaders() if name.lower() not in _HOP_BY_HOP
        )
        answer = Answer(reply.status, kept, reply.read())
    finally:
        connection.close()
    if answer.status >= _REFUSED:
        raise RefusedError(answer)
    return answer


def json_answer(status: int, value: dict[str, Any]) -> Answer:
    """Give an answer of our own, in the shape of the engine's."""
    return Answer(status, (("Content-Type", "application/json"),), json.dumps(value).encode())
