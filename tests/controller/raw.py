"""Speak the control protocol by hand, also in ways that no client of ours would."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from kmem_harness import Harness

__all__ = ["Raw", "connect"]


def connect(harness: Harness) -> socket.socket:
    """Connect to the controller of *harness*, as a second terminal does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(f"{harness.controller.directory}/control.sock")
    connection.settimeout(20)
    return connection


class Raw:
    """A control connection that sends whatever it is told to."""

    def __init__(self, harness: Harness) -> None:
        """Connect."""
        self.socket = connect(harness)

    def __enter__(self) -> Self:
        """Give it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        self.socket.close()

    def send(self, message: Any) -> None:
        """Send bytes as they are, anything else as JSON."""
        self.socket.send(message if isinstance(message, bytes) else json.dumps(message).encode())

    def receive(self) -> dict[str, Any] | None:
        """Receive a reply, ``None`` at the end."""
        body = self.socket.recv(300_000)
        return json.loads(body) if body else None

    def ask(self, message: Any) -> dict[str, Any] | None:
        """Send, and give the reply."""
        self.send(message)
        return self.receive()
