"""Behave for FUSE seconds; then fork for ever, every child too, for FURY seconds; then give up.

    python3 turncoat.py FUSE FURY

A fork that is refused is tried again a moment later. Prints how many forks went well in its first
process, and ends with 1. Bounded: never more than 2000 processes, whatever lets it.
"""

from __future__ import annotations

import os
import resource
import sys
from time import monotonic, sleep

_MOST = 2000
_LONGEST_SECONDS = 30.0
_PAUSE_SECONDS = 0.05


def bomb(end: float) -> tuple[int, int]:
    """Fork until *end*; give how often that went well, and how often not, in this process."""
    made = refused = 0
    while monotonic() < end:
        try:
            if os.fork() == 0:
                made = refused = 0
            else:
                made += 1
        except OSError:  # noqa: PERF203 - what it is about
            refused += 1
            sleep(_PAUSE_SECONDS)
    return made, refused


def main(fuse: str, fury: str) -> int:
    """Live as the command line says."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]  # TasksMax= may have set one already
    most = _MOST if hard < 0 else min(_MOST, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    sleep(min(float(fuse), _LONGEST_SECONDS))
    first = os.getpid()
    print("turning bad", flush=True)
    made, refused = bomb(monotonic() + min(float(fury), _LONGEST_SECONDS))
    if os.getpid() != first:
        os._exit(0)
    print(f"gave up: forked {made} times, refused {refused} times", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
