"""A client that the controller turned away hears why, although its request was never read."""

from __future__ import annotations

import socket

import pytest

from kmem_harness.controller.door import protocol
from kmem_harness.controller.owner.client import Connection, ControllerDiedError
from kmem_harness.core.errors import ConfigurationError

_REFUSAL = {"error": protocol.describe_error(ConfigurationError("64 clients are connected"))}


@pytest.mark.parametrize("unread", [b"", b"asked already"], ids=["EPIPE", "ECONNRESET"])
@pytest.mark.parametrize(
    ("said", "raised", "reason"),
    [
        (_REFUSAL, ConfigurationError, "64 clients"),
        (None, ControllerDiedError, "did not answer 'ls'"),
    ],
    ids=["refused", "died"],
)
def test_request_when_the_controller_hung_up_then_tells_what_it_said(
    unread: bytes,
    said: dict[str, object] | None,
    raised: type[Exception],
    reason: str,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        if unread:
            ours.send(unread)
        if said is not None:
            protocol.send(theirs, said)
        theirs.close()
        with pytest.raises(raised, match=reason):
            Connection(ours).request("ls", path="/")
