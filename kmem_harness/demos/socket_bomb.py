"""Make sockets, and close none. Knows nothing of limits.

A program of its own, run as ``python -I -S socket_bomb.py SECONDS MOST``: it makes at most MOST, or
as many descriptors as it may have. It holds them until SECONDS are over or SIGTERM comes, and prints
``{"made": 176, "failed": 97, "first_error": "Too many open files in system"}``.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from time import monotonic, sleep

__all__ = ["main"]

_LONGEST_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
#: Descriptors for something else than the bomb.
_SPARE = 16


def main(arguments: list[str]) -> int:
    """Burn as the command line says."""
    end = monotonic() + min(float(arguments[0]), _LONGEST_SECONDS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = int(arguments[1]) if hard < 0 else min(int(arguments[1]), hard - _SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most + _SPARE, hard))
    made: list[socket.socket] = []
    failed = 0
    first_error = ""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    while monotonic() < end and not told:
        try:
            if len(made) < most:
                made.append(socket.socket(socket.AF_UNIX))
                continue
        except OSError as error:
            failed += 1
            first_error = first_error or str(error.strerror)
        sleep(_PAUSE_SECONDS)
    print(json.dumps({"made": len(made), "failed": failed, "first_error": first_error}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
