"""Receive and answer seccomp notifications. Knows the ABI; decides nothing.

Source: include/uapi/linux/seccomp.h (v6.6); measured facts in the interposition reference.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress

__all__ = ["NOTIFICATION", "Listener", "is_listener"]

#: struct seccomp_notif: id, pid, flags, nr, arch, instruction_pointer, args[6]
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")  # id, val, error, flags

_RECV = 0xC0502100
_SEND = 0xC0182101
_ID_VALID = 0x40082102
_SET_FLAGS = 0x40082104
_SYNC_WAKE_UP = 1
_CONTINUE = 1

_EMPTY = bytes(NOTIFICATION.size)


def is_listener(fd: int) -> bool:
    """Say whether *fd* is a seccomp listener: what a peer hands over may be anything."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:seccomp notify"
    except OSError:
        return False


class Listener:
    """The supervisor's end of one filter.

    Not thread-safe: the buffers are reused for every notification.
    """

    __slots__ = ("_answer", "_notification", "fd")

    def __init__(self, fd: int) -> None:
        """Take over *fd*; it is closed by :meth:`close`."""
        self.fd = fd
        self._notification = bytearray(NOTIFICATION.size)
        self._answer = bytearray(_RESPONSE.size)
        self.wake_apart(apart=False)

    def wake_apart(self, *, apart: bool) -> None:
        """Let callers and us wake each other on our own processors, or on the one that wakes.

        From 6.6 on; before, the first is all there is. A single caller waits for its answer alone:
        on one processor that costs it 5 microseconds instead of 70.
        """
        with suppress(OSError):
            fcntl.ioctl(self.fd, _SET_FLAGS, 0 if apart else _SYNC_WAKE_UP)

    def receive(self) -> tuple[int, ...] | None:
        """Take one waiting notification, or ``None`` if its caller is gone meanwhile.

        Shape: (id, tid, flags, nr, arch, instruction_pointer, args[0], ..., args[5]).
        Blocks if none is waiting: poll first. Raises: OSError on a dead listener.
        """
        self._notification[:] = _EMPTY  # the kernel wants it zeroed
        try:
            fcntl.ioctl(self.fd, _RECV, self._notification)
        except (FileNotFoundError, InterruptedError):
            return None
        return NOTIFICATION.unpack(self._notification)

    def allow(self, notification_id: int) -> bool:
        """Let the call run; false if its caller died or was interrupted, so that it never ran."""
        return self._send(notification_id, 0, _CONTINUE)

    def deny(self, notification_id: int, errno: int) -> bool:
        """Fail the call with *errno*; false if its caller is gone."""
        return self._send(notification_id, -errno, 0)

    def is_waiting(self, notification_id: int) -> bool:
        """Say whether the caller still waits for an answer."""
        try:
            fcntl.ioctl(self.fd, _ID_VALID, struct.pack("=Q", notification_id))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the filter: calls trapped from now on fail with ENOSYS."""
        os.close(self.fd)

    def _send(self, notification_id: int, error: int, flags: int) -> bool:
        _RESPONSE.pack_into(self._answer, 0, notification_id, 0, error, flags)
        while True:
            try:
                fcntl.ioctl(self.fd, _SEND, self._answer)
            except InterruptedError:
                continue
            except FileNotFoundError:
                return False
            return True
