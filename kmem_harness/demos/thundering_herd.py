"""Serve like a server that adds a worker for each request and lets none go. Knows nothing of limits.

A program of its own, run as ``python -I -S thundering_herd.py SECONDS``. All its workers wait for
the same pipe, so that each request wakes all of them, and all but one for nothing: what it costs
the machine grows with the number of workers, which nothing but a limit bounds. A worker that cannot
be started is done without, as a server that has met its limit does.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from time import monotonic, sleep
from typing import NoReturn

__all__ = ["main"]

_LONGEST_SECONDS = 60.0
_PERIOD_SECONDS = 0.002


def main(arguments: list[str]) -> int:
    """Serve for as long as the command line says."""
    seconds = min(float(arguments[0]), _LONGEST_SECONDS)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    end = monotonic() + seconds
    while monotonic() < end:
        with suppress(OSError):
            if os.fork() == 0:
                os.close(writer)  # the last request is the end of the file
                _work(reader, end)
        with suppress(BlockingIOError):
            os.write(writer, b"x")
        sleep(_PERIOD_SECONDS)
    return 0


def _work(reader: int, end: float) -> NoReturn:
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        while (left := end - monotonic()) > 0:
            poll.poll(left * 1000)
            with suppress(BlockingIOError):
                if not os.read(reader, 1):
                    break
    finally:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
