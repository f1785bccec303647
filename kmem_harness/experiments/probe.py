"""Ask a service something and time the answer. Knows requests; knows no boxes.

Requests are due at fixed times, whether or not the last one is answered, and a latency counts from
when its request was due: a stall is many late answers, as it would be for clients.
"""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.experiments.model import Request

__all__ = ["Latency", "ask", "measure", "summarise", "wait_for"]

#: One answer may take this long; then it has failed.
_ANSWER_SECONDS = 2.0
_RETRY_SECONDS = 0.02
_ENOUGH = 65536


@dataclass(frozen=True)
class Latency:
    """How a service answered. Units: seconds."""

    samples: int
    failures: int
    p50: float
    p99: float
    longest: float

    def as_dict(self) -> dict[str, float]:
        """Give it JSON-ready."""
        return asdict(self)


def ask(request: Request, timeout: float = _ANSWER_SECONDS) -> str:
    """Make one request; give what went wrong, or nothing."""
    if request.command:
        return _ask_command(request, timeout)
    host, _, port = request.tcp.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout) as connection:
            connection.sendall(request.send.encode())
            answer = b""
            wanted = request.expect.encode()
            while wanted not in answer and len(answer) < _ENOUGH:
                more = connection.recv(4096)
                if not more:
                    return f"{request.tcp} answered {answer[:80]!r}, without {request.expect!r}"
                answer += more
    except (OSError, ValueError) as error:
        return f"{request.tcp}: {error}"
    return ""


def _ask_command(request: Request, timeout: float) -> str:
    try:
        outcome = subprocess.run(
            request.command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{request.command[0]} had not ended after {timeout:g} s"
    except OSError as error:
        return f"{request.command[0]}: {error.strerror}"
    if outcome.returncode:
        said = (outcome.stderr or outcome.stdout).decode(errors="replace").strip()[-200:]
        return f"{request.command[0]} exited with {outcome.returncode}: {said}"
    if request.expect and request.expect.encode() not in outcome.stdout:
        return f"{request.command[0]} said {outcome.stdout[-80:]!r}, without {request.expect!r}"
    return ""


def wait_for(request: Request, goes_on: Callable[[], bool]) -> str:
    """Repeat *request* until it comes true; give what went wrong last if it never does."""
    deadline = time.monotonic() + request.within
    while True:
        # A command has all the time there is: it may be a benchmark. An answer comes at once.
        left = max(deadline - time.monotonic(), _RETRY_SECONDS)
        wrong = ask(request, left if request.command else min(left, _ANSWER_SECONDS))
        if not wrong or time.monotonic() >= deadline or not goes_on():
            return wrong
        time.sleep(_RETRY_SECONDS)


def measure(request: Request | Callable[[], object], seconds: float, period: float) -> Latency:
    """Make a request each *period* for *seconds*; a callable fails by raising."""
    latencies: list[float] = []
    failures = 0
    started = time.monotonic()
    due, end = started, started + seconds
    while due < end and time.monotonic() < end:
        time.sleep(max(0.0, due - time.monotonic()))
        if callable(request):
            failed = True
            with suppress(Exception):
                request()
                failed = False
            failures += failed
        else:
            failures += bool(ask(request))
        latencies.append(time.monotonic() - due)
        due = started + len(latencies) * period
    # What was due and never asked has waited until now at least.
    now = time.monotonic()
    while due < min(now, end):
        latencies.append(now - due)
        due = started + len(latencies) * period
    return summarise(latencies, failures)


def summarise(latencies: Sequence[float], failures: int) -> Latency:
    """Give the figures of *latencies*."""
    ordered = sorted(round(latency, 6) for latency in latencies) or [0.0]
    return Latency(
        samples=len(latencies),
        failures=failures,
        p50=ordered[len(ordered) // 2],
        p99=ordered[len(ordered) * 99 // 100],
        longest=ordered[-1],
    )
