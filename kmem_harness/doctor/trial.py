"""Run what a box runs: a limit that binds, one object of each kind, a census, an end.

Knows the harness; whether that is good news is for others to say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.costs.table import load_costs
from kmem_harness.harness import Harness
from kmem_harness.interposer.filter import WAIT_KILLABLE_RECV

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Trial", "run_trial"]

_PYTHON = [sys.executable, "-I", "-S"]
_ONE_OF_EACH = os.path.join(os.path.dirname(__file__), "one_of_each.py")
#: Forks and reaps twice as many as fit, then keeps what it forks until it is refused.
_FORKS = """
import os, sys
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
kept = []
try:
    while len(kept) < 9:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        kept.append(writing)
except OSError as error:
    sys.exit(10 * error.errno + len(kept))
"""
#: Makes pipes while a timer's signals come, whose handler lacks SA_RESTART.
_TICKS = """
import os, signal, sys
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
interrupted = 0
for _ in range(300):
    try:
        for one in os.pipe():
            os.close(one)
    except InterruptedError:
        interrupted += 1
signal.setitimer(signal.ITIMER_REAL, 0)
sys.exit(min(interrupted, 99))
"""
_ROOM_FOR = 2
_ENOMEM = 12
_AMPLE = "64M"
_SECONDS = 20.0
_CENSUS_SECONDS = 3.0


@dataclass
class Trial:
    """What came of it. Each failure is a whole sentence, and ``None`` where there was none."""

    isolation: str = ""
    is_wait_killable: bool = False
    #: Without it nothing can be enforced.
    limit: str | None = "not tried"
    #: ... and without these, figures are not what they should be.
    kinds: str | None = "not tried"
    end: str | None = "not tried"
    signals: str | None = "not tried"
    nr_kinds: int = 0
    #: What the report of such a box says cannot be exact.
    partial: list[str] = field(default_factory=list)


def run_trial() -> Trial:
    """Start two harnesses, one after the other, and a box in each. Takes a second."""
    trial = Trial()
    try:
        with Harness("v4") as harness:  # a task costs the same in it, whatever it is
            trial.isolation = harness.isolation
            trial.limit = _limit(harness, trial)
        if trial.limit is None:
            with Harness("5.10") as harness:
                _one_of_each(harness, trial)
                trial.signals = _signals(harness)
    except (KmemHarnessError, OSError, ValueError) as error:
        failure = str(error) or type(error).__name__
        if trial.limit is None:
            trial.kinds = failure
        else:
            trial.limit = failure
    return trial


def _limit(harness: Harness, trial: Trial) -> str | None:
    """See that as many tasks fit as should, that reaped ones count no more, and one more does not."""
    limit = _ROOM_FOR * load_costs(harness.kernel).kinds["task"].nbytes
    with harness.run([*_PYTHON, "-c", _FORKS], kmem_limit=limit) as box:
        trial.is_wait_killable = bool(box.filter_flags & WAIT_KILLABLE_RECV)
        status = int(box.wait(timeout=_SECONDS))
        refused = len(box.refusals)
    if (status, refused) == (10 * _ENOMEM + _ROOM_FOR, 1):
        return None
    return (
        f"of tasks under a limit for {_ROOM_FOR}, {refused} were refused and the program ended "
        f"with {status}, not {10 * _ENOMEM + _ROOM_FOR}"
    )


def _signals(harness: Harness) -> str | None:
    """See that signals interrupt no call that natively they would not."""
    with harness.run([*_PYTHON, "-c", _TICKS], kmem_limit=_AMPLE) as box:
        status = int(box.wait(timeout=_SECONDS))
        doubts = [doubt for doubt in box.report()["partial"] if "EINTR" in doubt]
    if status:
        doubts.append(f"{status} of 300 calls failed with EINTR")
    return "; ".join(doubts) or None


def _one_of_each(harness: Harness, trial: Trial) -> None:
    """See that each kind is charged and found by a census, and that nothing is held in the end."""
    command = [*_PYTHON, _ONE_OF_EACH]
    pipe = subprocess.PIPE
    with harness.run(command, kmem_limit=_AMPLE, stdin=pipe, stdout=pipe) as box:
        running: Any = box.running
        said = json.loads(running.stdout.readline())
        # A census takes a call for under way while its caller has not come to the next one.
        until = time.monotonic() + _CENSUS_SECONDS
        unseen = said["made"]
        while unseen and time.monotonic() < until:
            held = _live(box.report())
            unseen = [kind for kind in unseen if not any(fnmatchcase(one, kind) for one in held)]
        running.stdin.close()
        box.wait(timeout=_SECONDS)
        report = box.report()
    trial.partial = report["partial"]
    trial.nr_kinds = len(said["made"])
    left = {kind: number for kind, number in _live(report).items() if number}
    trial.end = f"still counted after the end: {left}" if left else None
    failures = [f"not found by a census: {', '.join(unseen)}"] if unseen else []
    failures += [f"{kind} cannot be made here: {why}" for kind, why in said["failed"].items()]
    trial.kinds = "; ".join(failures) or None


def _live(report: Mapping[str, Any]) -> dict[str, int]:
    return {kind: row["live"] for kind, row in report["kinds"].items() if row["live"]}
