"""List the unix sockets of network namespaces, those in no table among them: in messages, in backlogs.

Knows SOCK_DIAG; knows no boxes. Source: net/unix/diag.c, include/uapi/linux/unix_diag.h.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from kmem_harness.procfs.libc import libc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kmem_harness.procfs.steps import Steps

__all__ = ["UnixSocket", "UnixSockets", "backlogs_are_counted", "held_by", "held_outside"]

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_ALL_STATES = 0xFFFFFFFF
_SHOW = 0x04 | 0x10 | 0x40  # UDIAG_SHOW_PEER, _RQLEN, _UID
_PEER, _RQLEN, _UID = 2, 4, 7
_CLONE_NEWNET = 0x40000000
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr
_ASKED = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_FOUND = struct.Struct("=BBBxIII")  # struct unix_diag_msg: family, type, state, inode, cookie
_ATTRIBUTE = struct.Struct("=HH")
_TCP_LISTEN = 10
#: From here on a listener's own count has what waits at sockets that nobody has accepted yet.
_COUNTS_BACKLOG = (6, 2)
_RELEASE = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


class UnixSocket(NamedTuple):
    """One socket; ``peer`` is an inode, 0 for none. ``waiting``: bytes to be read, or for one that listens, connections."""

    inode: int
    type: int
    state: int
    waiting: int
    uid: int
    peer: int

    @property
    def is_empty(self) -> bool:
        """Whether it certainly holds no message. A datagram may be one of no bytes at all."""
        return not self.waiting and (self.state == _TCP_LISTEN or self.type == socket.SOCK_STREAM)


class UnixSockets:
    """The unix sockets of the network namespaces of some processes."""

    def __init__(self) -> None:
        """Know of none yet."""
        self._asked: dict[str, socket.socket] = {}

    def list(self, pids: Iterable[int]) -> list[UnixSocket] | None:
        """List those of the namespaces of *pids*, ``None`` if one of them may not be looked at."""
        namespaces = {}
        try:
            for pid in pids:
                with suppress(FileNotFoundError, ProcessLookupError):
                    namespaces[os.readlink(f"/proc/{pid}/ns/net")] = pid
        except PermissionError:  # one that hides, as its parent would not
            namespaces.setdefault(os.readlink("/proc/self/ns/net"), os.getpid())
        try:
            return [found for name, pid in namespaces.items() for found in self._ask(name, pid)]
        except OSError:
            return None

    def close(self) -> None:
        """Let go of the sockets that ask."""
        for asking in self._asked.values():
            asking.close()
        self._asked.clear()

    def _ask(self, namespace: str, pid: int) -> Iterator[UnixSocket]:
        asking = self._asked.get(namespace)
        if asking is None:
            asking = self._asked[namespace] = _diag_socket(namespace, pid)
        request = _ASKED.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOW, 0, 0)
        head = _HEAD.pack(
            _HEAD.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0
        )
        asking.send(head + request)
        while True:
            packet = asking.recv(1 << 20)
            at = 0
            while at < len(packet):
                length, kind, _, _, _ = _HEAD.unpack_from(packet, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", packet, at + _HEAD.size)
                    raise OSError(-error, os.strerror(-error))
                yield _read(packet, at + _HEAD.size, at + length)
                at += (length + 3) & ~3


def _read(packet: bytes, at: int, end: int) -> UnixSocket:
    _, kind, state, inode, _, _ = _FOUND.unpack_from(packet, at)
    at += _FOUND.size
    told = {_PEER: 0, _RQLEN: 0, _UID: -1}
    while at + _ATTRIBUTE.size <= end:
        length, name = _ATTRIBUTE.unpack_from(packet, at)
        if name in told:
            (told[name],) = struct.unpack_from("=I", packet, at + _ATTRIBUTE.size)
        at += (max(length, _ATTRIBUTE.size) + 3) & ~3
    return UnixSocket(inode, kind, state, told[_RQLEN], told[_UID], told[_PEER])


def _diag_socket(namespace: str, pid: int) -> socket.socket:
    """Make a socket that is told of the namespace of *pid*. Raises: OSError if that is not for us."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.readlink(f"/proc/self/fd/{here}") == namespace:
            return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc().setns(there, _CLONE_NEWNET):
                raise PermissionError(namespace)
            try:
                return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            finally:
                if libc().setns(here, _CLONE_NEWNET):
                    os.abort()  # we must not go on where the box is
        finally:
            os.close(there)
    finally:
        os.close(here)


def backlogs_are_counted() -> bool:
    """Say whether a listener tells of what waits at sockets that nobody has accepted yet."""
    return _RELEASE >= _COUNTS_BACKLOG


def held_by(pid: int) -> set[int]:
    """Give the inodes of the sockets in the table of *pid*; of none if we may not look."""
    found = set()
    with suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{number}")
                if link.startswith("socket:["):
                    found.add(int(link[8:-1]))
    return found


def held_outside(pids: Iterable[int]) -> Steps[set[int]]:
    """Give the inodes of sockets that processes other than *pids* have in their tables."""
    others = {int(name) for name in os.listdir("/proc") if name.isdigit()}.difference(pids)
    found: set[int] = set()
    for pid in others:
        found |= held_by(pid)
        yield
    return found
