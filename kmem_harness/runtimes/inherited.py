"""What a command started in our place would have inherited: descriptors, a terminal, an environment.

Knows our own process; for the command line, whose caller means its command and not us.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

__all__ = ["forget_coerced_locale", "has_terminal", "inherited_fds", "let_go", "take_terminal_back"]


def inherited_fds() -> tuple[int, ...]:
    """List the descriptors beyond the streams that our caller handed down; what we open is not one."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that listed them
            if int(name) > 2 and os.get_inheritable(int(name)):  # noqa: PLR2004 - standard error
                found.append(int(name))
    return tuple(sorted(found))


def has_terminal() -> bool:
    """Whether a stream of ours is our terminal, and we are in its foreground."""
    for fd in range(3):
        with suppress(OSError):
            if os.tcgetpgrp(fd) == os.getpgrp():
                return True
    return False


def take_terminal_back() -> None:
    """Be in the foreground again if whoever a command put there is gone: a shell may have read on it."""
    for fd in range(3):
        with suppress(OSError):
            foreground = os.tcgetpgrp(fd)
            if foreground == os.getpgrp():
                return
            try:
                os.killpg(foreground, 0)
            except ProcessLookupError:
                # Who is in the background may do this only where it does not mind the signal for it.
                before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
                os.tcsetpgrp(fd, os.getpgrp())
                signal.signal(signal.SIGTTOU, before)
            return


def let_go(fds: tuple[int, ...]) -> None:
    """Hold neither *fds* nor standard input and output: others wait for the last who holds them."""
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in range(2):
        os.dup2(nothing, fd, inheritable=False)
    if nothing > 1:
        os.close(nothing)


def forget_coerced_locale() -> None:
    """Take out of our environment what Python puts into it where the locale is C (PEP 538)."""
    with suppress(OSError), open("/proc/self/environ", "rb") as at_start:
        if not any(word.startswith(b"LC_CTYPE=") for word in at_start.read().split(b"\0")):
            os.environ.pop("LC_CTYPE", None)
