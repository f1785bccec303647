"""Serve like a well-behaved neighbour and measure its own latency. Knows nothing of limits.

A program of its own, run as ``python -I -S neighbour.py [SECONDS [PERIOD_US]]``: standard library
only, and of that only what is quick to import. It prints one line of JSON, at the end or when told
to stop by SIGTERM or SIGINT::

    {"samples": 2000, "failures": 0, "p50_us": 810, "p99_us": 1720, "max_us": 2450}

What is measured. Requests are due at fixed times, whether or not the last one is answered, and a
latency counts from the time a request was due. So it holds the three things by which a fork bomb
makes a whole machine suffer: the wait for a processor (the wake-up comes late), the kernel's locks
and allocators (a request makes a pipe, and makes and collects a child, as a server with a worker
for each request does), and the queue behind a slow answer: a stall of a second is two hundred late
answers rather than one, as it would be for clients. A loop that sends its next request only after
the last answer would hide just that.
"""

from __future__ import annotations

import os
import signal
import sys
from time import monotonic, sleep

__all__ = ["main", "measure", "summarise"]

_SECONDS = 10.0
_LONGEST_SECONDS = 3600.0
_PERIOD_US = 5000
_USAGE_STATUS = 2


def measure(seconds: float, period_seconds: float) -> tuple[list[float], int]:
    """Answer a request each *period_seconds* for *seconds*.

    Shape: the latency of each request that was due, in seconds; how many could not be served.
    """
    latencies: list[float] = []
    failures = 0
    started = monotonic()
    due, end = started, started + seconds
    try:
        while due < end and monotonic() < end:
            sleep(max(0.0, due - monotonic()))
            failures += not _serve()
            latencies.append(monotonic() - due)
            due = started + len(latencies) * period_seconds
    except KeyboardInterrupt:
        end = monotonic()
    # What was due and never served has waited until now at least.
    now = monotonic()
    while due < min(now, end):
        latencies.append(now - due)
        due = started + len(latencies) * period_seconds
    return latencies, failures


def summarise(latencies: list[float], failures: int) -> str:
    """Give the figures as one line of JSON, latencies in whole microseconds."""
    ordered = sorted(round(latency * 1e6) for latency in latencies) or [0]
    return (
        f'{{"samples": {len(latencies)}, "failures": {failures}, '
        f'"p50_us": {ordered[len(ordered) // 2]}, "p99_us": {ordered[len(ordered) * 99 // 100]}, '
        f'"max_us": {ordered[-1]}}}'
    )


def main(arguments: list[str]) -> int:
    """Measure as the command line says and print the summary."""
    try:
        seconds = float(arguments[0]) if arguments else _SECONDS
        period_us = int(arguments[1]) if arguments[1:] else _PERIOD_US
        usable = 0 < seconds <= _LONGEST_SECONDS and 0 < period_us <= seconds * 1e6
    except ValueError:
        usable = False
    if not usable or arguments[2:]:
        sys.stderr.write(
            f"neighbour: SECONDS (up to {_LONGEST_SECONDS:.0f}) and PERIOD_US, not {arguments}\n"
        )
        return _USAGE_STATUS
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stdout.write(summarise(*measure(seconds, period_us / 1e6)) + "\n")
    return 0


def _serve() -> bool:
    """Do the work of one request: a new pipe, and a child that writes a byte into it."""
    try:
        reader, writer = os.pipe()
    except OSError:
        return False
    try:
        child = os.fork()
    except OSError:
        os.close(writer)
        os.close(reader)
        return False
    if child == 0:
        try:
            os.write(writer, b"x")
        finally:  # also if told to stop right here: a child never becomes a second neighbour
            os._exit(0)
    os.close(writer)
    answered = os.read(reader, 1) == b"x"  # a child that was killed leaves an end of file
    os.close(reader)
    os.waitpid(child, 0)
    return answered


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
