"""Light the shell's fork bomb, and light it again whenever it dies out. Knows nothing of limits.

A program of its own, run as ``python -I -S shell_bomb.py SECONDS``. A shell gives up at its first
fork that fails for lack of memory, so one bomb soon smoulders; this keeps it burning until SECONDS
are over.
"""

from __future__ import annotations

import os
import sys
from time import monotonic, sleep

__all__ = ["main"]

_LONGEST_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
# ``:(){ :|:& };:`` under a name that dash takes, too. sh and not bash: that one answers a failed
# fork with seconds of sleep, and a bomb that sleeps shows nothing.
_SHELL = "/bin/sh"
_BOMB = "b(){ b|b& };b"


def main(arguments: list[str]) -> int:
    """Burn as the command line says."""
    seconds = min(float(arguments[0]), _LONGEST_SECONDS)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    end = monotonic() + seconds
    while monotonic() < end:
        try:
            os.posix_spawn(_SHELL, [_SHELL, "-c", _BOMB], os.environ)
        except OSError:
            sleep(_PAUSE_SECONDS)
        _collect()
        sleep(_PAUSE_SECONDS)
    return 0


def _collect() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
