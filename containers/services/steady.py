"""A well-behaved service: answer requests that come at fixed times, and say how long that takes.

    python3 steady.py fork|thread|memory [PERIOD_MS]

Each request makes a process, a thread, or neither. They are due every PERIOD_MS (10), whether the
last one is answered or not, and a latency counts from the time a request was due: so a stall of
the machine shows as it would to clients. Tells systemd (or who stands in for it) when it is ready,
and once a second how it does. At SIGTERM it prints one line of JSON and ends::

    {"requests": 900, "failures": 0, "p50_us": 410, "p99_us": 980, "p99_us_by_second": [950, 990]}
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from time import monotonic, sleep

_store: dict[int, bytes] = {}


def fork(_: int) -> None:
    """Answer in a child, as a server with a process for each request does."""
    reading, writing = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            os.write(writing, b"answer")
            os._exit(0)
        os.read(reading, 16)
        os.waitpid(pid, 0)
    finally:
        os.close(reading)
        os.close(writing)


def thread(number: int) -> None:
    """Do a job in a thread of its own."""
    job = threading.Thread(target=memory, args=(number,))
    job.start()
    job.join()


def memory(number: int) -> None:
    """Keep something, and find something."""
    _store[number % 1000] = bytes(1000)
    _store.get((number * 7) % 1000)


def tell(message: str) -> None:
    """Send an sd_notify(3) message."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(message.encode(), path)


def percentile(seconds: list[float], share: float) -> int:
    """Give a percentile, in whole microseconds."""
    ordered = sorted(seconds) or [0.0]
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e6)


def main(manner: str = "fork", period_ms: str = "10") -> None:
    """Serve until SIGTERM."""
    answer = {"fork": fork, "thread": thread, "memory": memory}[manner]
    period, ended = float(period_ms) / 1000, []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    latencies: list[list[float]] = [[]]
    failures = 0
    began = monotonic()
    due, told = began, began + 1
    tell("READY=1")
    while not ended:
        sleep(max(0.0, due - monotonic()))
        try:
            answer(sum(map(len, latencies)))
        except (OSError, RuntimeError):  # a thread that cannot be started is the second
            failures += not ended  # being told to end interrupts what is going on
        now = monotonic()
        latencies[-1].append(now - due)
        due += period
        if now >= told:
            tell(f"STATUS=p99 {percentile(latencies[-1], 0.99) / 1000:.1f} ms")
            told += 1
            latencies.append([])
    every = [one for second in latencies for one in second]
    figures = {
        "requests": len(every),
        "failures": failures,
        "p50_us": percentile(every, 0.5),
        "p99_us": percentile(every, 0.99),
        "p99_us_by_second": [percentile(second, 0.99) for second in latencies if second],
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
