"""Make a directory in a directory in a directory, for ever. Knows nothing of limits.

A program of its own, run as ``python -I -S dentry_bomb.py SECONDS MOST DIRECTORY``: what a shell does
with ``while true; do mkdir x; cd x; done``, at most MOST deep. It holds them until SECONDS are over or SIGTERM comes,
prints ``{"made": 2210, "failed": 97, "first_error": "Cannot allocate memory"}``, and removes them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from time import monotonic, sleep

__all__ = ["main"]

_LONGEST_SECONDS = 60.0
_PAUSE_SECONDS = 0.02


def main(arguments: list[str]) -> int:
    """Burn as the command line says."""
    end = monotonic() + min(float(arguments[0]), _LONGEST_SECONDS)
    most = int(arguments[1])
    os.chdir(arguments[2])
    made = failed = 0
    first_error = ""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    while monotonic() < end and not told:
        try:
            if made < most:
                os.mkdir("x")
                os.chdir("x")
                made += 1
                continue
        except OSError as error:
            failed += 1
            first_error = first_error or str(error.strerror)
        sleep(_PAUSE_SECONDS)
    print(json.dumps({"made": made, "failed": failed, "first_error": first_error}), flush=True)
    for _ in range(made):
        os.chdir("..")
        os.rmdir("x")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
