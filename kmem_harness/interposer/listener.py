"""Receive and answer seccomp notifications. Knows the ABI; decides nothing.

Source: include/uapi/linux/seccomp.h (v6.6); measured facts in the interposition reference.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from fcntl import ioctl

__all__ = ["NOTIFICATION", "Listener", "is_listener"]

#: struct seccomp_notif: id, pid, flags, nr, arch, instruction_pointer, args[6]
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")  # id, val, error, flags
_ID = struct.Struct("=Q")

_RECV = 0xC0502100
_SEND = 0xC0182101
_ID_VALID = 0x40082102
_SET_FLAGS = 0x40082104
_SYNC_WAKE_UP = 1
_CONTINUE = 1

_EMPTY = bytes(NOTIFICATION.size)  # the kernel wants it zeroed


def is_listener(fd: int) -> bool:
    """Say whether *fd* is a seccomp listener: what a peer hands over may be anything."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:seccomp notify"
    except OSError:
        return False


class Listener:
    """The supervisor's end of one filter.

    Not thread-safe: the buffer is reused for every notification.
    """

    __slots__ = ("_allowance", "fd", "handed")

    def __init__(self, fd: int) -> None:
        """Take over *fd*; it is closed by :meth:`close`."""
        self.fd = fd
        #: Calls that were taken already, and wait to be received.
        self.handed: list[tuple[int, ...]] = []
        self._allowance = bytearray(_RESPONSE.pack(0, 0, 0, _CONTINUE))
        self.wake_apart(apart=False)

    def wake_apart(self, *, apart: bool) -> None:
        """Let callers and us wake each other on our own processors, or on the one that wakes.

        From 6.6 on; before, the first is all there is. A single caller waits for its answer alone:
        on one processor that costs it 5 microseconds instead of 70.
        """
        with suppress(OSError):
            ioctl(self.fd, _SET_FLAGS, 0 if apart else _SYNC_WAKE_UP)

    def receive(self) -> tuple[int, ...] | None:
        """Take one waiting notification, or ``None`` if its caller is gone meanwhile.

        Shape: (id, tid, flags, nr, arch, instruction_pointer, args[0], ..., args[5]).
        Blocks if none is waiting: poll first. Raises: OSError on a dead listener.
        """
        if self.handed:
            return self.handed.pop(0)
        try:
            return NOTIFICATION.unpack(ioctl(self.fd, _RECV, _EMPTY))
        except (FileNotFoundError, InterruptedError):
            return None

    def allow(self, notification_id: int) -> bool:
        """Let the call run; false if its caller died or was interrupted, so that it never ran."""
        _ID.pack_into(self._allowance, 0, notification_id)
        return self._send(self._allowance)

    def deny(self, notification_id: int, errno: int) -> bool:
        """Fail the call with *errno*; false if its caller is gone."""
        return self._send(_RESPONSE.pack(notification_id, 0, -errno, 0))

    def is_waiting(self, notification_id: int) -> bool:
        """Say whether the caller still waits for an answer."""
        try:
            ioctl(self.fd, _ID_VALID, _ID.pack(notification_id))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the filter: calls trapped from now on fail with ENOSYS."""
        os.close(self.fd)

    def _send(self, answer: bytes | bytearray) -> bool:
        while True:
            try:
                ioctl(self.fd, _SEND, answer)
            except InterruptedError:
                continue
            except FileNotFoundError:
                return False
            return True
