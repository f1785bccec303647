"""Readers of what engines, their runtimes and their clients say."""

from __future__ import annotations

import json
from typing import Any

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.proxy.framing import Head, Incoming, NotHttpError, Reply
from kmem_harness.proxy.routes import route
from kmem_harness.serve.accounts import Arrival
from kmem_harness.terms import PREFIX, Terms
from tests.fuzz.reader import Reader, of_bytes, of_text

__all__ = ["READERS"]

_TERMS = Terms(
    limit="8m",
    kinds=("task", "file"),
    mode="observe",
    inject=("socket:error=ENOMEM:when=3",),
    memcg="/shop.slice/web",
    kernel="v4",
    killable=True,
)
_STATE = {
    "ociVersion": "1.0.2",
    "fds": ["seccompFd"],
    "pid": 4422,
    "metadata": "8m",
    "state": {"id": "5f3759df86ab", "status": "creating", "pid": 4422, "bundle": "/run/one"},
}
_REQUESTS = (
    b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n",
    b"POST /v1.41/containers/create?name=a HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}",
    (
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\n0\r\n\r\n"
    ),
    (
        b"POST /containers/a/attach?stream=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n"
        b"Upgrade: tcp\r\n\r\nearly"
    ),
)
_REPLIES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n",
    b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n\x01\0\0\0\0\0\0\x02ab",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\nraw",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
)
_HTTP_WORDS = (
    b"\r\n",
    b"\r\n\r\n",
    b": ",
    b"chunked",
    b"Content-Length",
    b"HTTP/1.1",
    b"0\r\n\r\n",
)


def _read_state(data: bytes) -> None:
    state = _json(data)
    if isinstance(state, dict):  # as the door sees to
        Arrival.of_state(state)


def _read_labels(data: bytes) -> None:
    labels = _json(data)
    if isinstance(labels, dict):
        Terms.of_labels(labels)


def _read_request(data: bytes) -> None:
    """As it may come, in pieces: the same is told of it."""
    whole, slow = Incoming(), Incoming()
    rest = whole.feed(data)
    assert len(rest) <= len(data)
    for at in range(0, len(data), 7):
        if not slow.is_whole:
            slow.feed(data[at : at + 7])
    assert slow.head == whole.head
    assert slow.is_whole == whole.is_whole
    if whole.head is not None:
        route(whole.head.method, whole.head.path)


def _read_reply(data: bytes) -> None:
    for hijacks in (False, True):
        reply = Reply(Head("POST", "/containers/a/attach", (("upgrade", "tcp"),)))
        reply.feed(data, hijacks=hijacks)
        reply.feed(b"", hijacks=hijacks)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


READERS = {
    "listener-metadata": Reader(
        of_text(Terms.of_metadata),
        (_TERMS.metadata().encode(), b'{"memcg":"/a"}'),
        is_json=True,
    ),
    "container-state": Reader(of_bytes(_read_state), (json.dumps(_STATE).encode(),), is_json=True),
    "labels": Reader(
        of_bytes(_read_labels),
        (json.dumps({f"{PREFIX}limit": "8m", f"{PREFIX}kinds": "task", "other": "1"}).encode(),),
        is_json=True,
    ),
    "proxy-request": Reader(
        of_bytes(_read_request), _REQUESTS, _HTTP_WORDS, errors=(KmemHarnessError, NotHttpError)
    ),
    "proxy-reply": Reader(
        of_bytes(_read_reply), _REPLIES, _HTTP_WORDS, errors=(KmemHarnessError, NotHttpError)
    ),
}
