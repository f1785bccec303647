"""Frame control messages: one JSON object per SOCK_SEQPACKET packet, descriptors beside it.

Both sides use this module. A request names its ``op``; a reply has ``ok`` or ``error``.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from array import array
from typing import Any

from kmem_harness.core.errors import (
    AccountingError,
    ConfigurationError,
    KmemHarnessError,
    ShimError,
    UnsupportedHostError,
)

__all__ = [
    "FRAME",
    "MAX_PACKET",
    "ConnectionEndedError",
    "close_all",
    "describe_error",
    "error_from",
    "receive",
    "receive_with_fds",
    "send",
]

#: A report with a hundred cards is 50 kB; the kernel's default send buffer holds 200 kB.
MAX_PACKET = 200_000
_MAX_FDS = 4
#: What stands before each message where messages go over a stream: its length.
FRAME = struct.Struct("!I")

_ERRORS: dict[str, type[KmemHarnessError]] = {
    error.__name__: error
    for error in (ConfigurationError, AccountingError, UnsupportedHostError, ShimError)
}


class ConnectionEndedError(KmemHarnessError):
    """The other side closed the control connection, or died."""


def send(connection: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one message. Raises: OSError, among them BlockingIOError if the peer does not read."""
    body = json.dumps(message, separators=(",", ":")).encode()
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    connection.sendmsg([body], ancillary, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive one message and the descriptors that came with it, close-on-exec.

    Raises: ConnectionEndedError at the end; ConfigurationError for a packet that is no such message.
    """
    # A buffer for the longest is more than a controller short of memory may have left.
    size = connection.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
    body, fds, flags = receive_with_fds(connection, min(size, MAX_PACKET))
    if not body:
        close_all(fds)
        message = "the control connection was closed"
        raise ConnectionEndedError(message)
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            message = f"a control packet is longer than {MAX_PACKET} bytes or {_MAX_FDS} files"
            raise ConfigurationError(message)
        value = json.loads(body)
        if not isinstance(value, dict):
            message = f"a control packet holds {type(value).__name__}, not an object"
            raise ConfigurationError(message)
    except (ValueError, RecursionError) as error:  # ConfigurationError is a ValueError
        close_all(fds)
        raise ConfigurationError(str(error)) from error
    return value, fds


def receive_with_fds(connection: socket.socket, size: int) -> tuple[bytes, list[int], int]:
    """Receive at most *size* bytes, the descriptors beside them, and the message flags."""
    body, ancillary, flags, _ = connection.recvmsg(
        size, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
    )
    fds = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return body, list(fds), flags


def close_all(fds: list[int]) -> None:
    """Close descriptors nobody asked for."""
    for fd in fds:
        os.close(fd)


def describe_error(error: Exception) -> dict[str, Any]:
    """Describe an exception so that :func:`error_from` can raise it on the other side."""
    described: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, OSError):
        described |= {"type": "OSError", "errno": error.errno, "message": error.strerror}
    for name in ("missing", "remedy", "step", "errno"):
        if isinstance(error, KmemHarnessError) and hasattr(error, name):
            described[name] = getattr(error, name)
    return described


def error_from(described: dict[str, Any]) -> Exception:
    """Rebuild the exception that :func:`describe_error` described."""
    kind, message = str(described.get("type")), described.get("message", "")
    if kind == "OSError":
        return OSError(described.get("errno"), message)
    if kind == "UnsupportedHostError":
        return UnsupportedHostError(
            message, missing=described.get("missing", ""), remedy=described.get("remedy", "")
        )
    if kind == "ShimError":
        return ShimError(message, step=described.get("step", ""), errno=described.get("errno", 0))
    return _ERRORS.get(kind, KmemHarnessError)(message)
