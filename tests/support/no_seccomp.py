"""Run a command where ``seccomp(2)`` is not to be had, as in a sandbox that denies it.

Run as a program, with a command, it denies the call to itself and becomes that command.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WithoutSeccomp"]

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_MODE_FILTER = 2
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class WithoutSeccomp:
    """A place for ``CommandLine.run``'s *within*."""

    @staticmethod
    def command(command: Sequence[str]) -> list[str]:
        """Wrap *command* so that nothing in it can install a filter by ``seccomp(2)``."""
        return [sys.executable, "-I", "-S", __file__, *command]


def _main() -> None:
    steps = [
        (_LOAD_WORD, 0, 0, 0),  # the number of the call
        (_JUMP_IF_EQUAL, 0, 1, _SECCOMP[os.uname().machine]),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(
        struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    for words in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*words):
            sys.exit(os.strerror(ctypes.get_errno()))
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - to become it is the point


if __name__ == "__main__":
    _main()
