"""Hold the emulation against the running kernel: the same load, counted by both.

A load runs in a box, and its first process is put into a real memcg before it makes anything. What
both count is read three times, when everything stands still.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmem_harness.calibrate.measure import (
    LOADS,
    Load,
    ask,
    directory_in,
    load_command,
    load_environment,
    make_watchable,
    no_place,
    place_for,
)
from kmem_harness.calibrate.memcg import RealMemcg
from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.procfs.processes import BoxProcesses, stat_of
from kmem_harness.procfs.steps import result_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.costs.table import CostTable
    from kmem_harness.harness import Harness

__all__ = ["CHECKS", "POINTS", "Outcome", "check", "stressors"]

POINTS = 3
#: How far apart the two may be.
TOLERANCE = 0.10
#: Of stress-ng, which calls its mkdir stressor "dir".
_STRESSORS = ("fork", "dir", "sock", "pipe", "eventfd", "timerfd")
#: Stress goes on by itself: so long from one look to the next.
_STRESS_SECONDS = 0.5
_STOP_SECONDS = 2.0
#: The load, stress-ng, and at least one stressor.
_STRESSED = 3
CHECKS = (
    *LOADS,
    Load("anon-file", 600, "timerfd"),
    Load("anon-file", 600, "epoll"),
    Load("anon-file", 600, "signalfd"),
    Load("mixed", 1),
)


@dataclass(frozen=True)
class Outcome:
    """What a load took by both counts, at each look, since before its first object. Units: bytes."""

    name: str
    emulated: tuple[int, ...]
    real: tuple[int, ...]

    def differences(self) -> list[float]:
        """Give how far the emulated figure is from the real one, as a share of that."""
        return [
            (emulated - real) / real if real else float("inf")
            for emulated, real in zip(self.emulated, self.real, strict=True)
        ]

    @property
    def worst(self) -> float:
        """The difference that is farthest from none."""
        return max(self.differences(), key=abs)

    @property
    def is_close(self) -> bool:
        """Whether they agree at every look, and there was one."""
        return bool(self.real) and abs(self.worst) <= TOLERANCE


def stressors() -> list[Load]:
    """Give the loads of stress-ng, none where it is not installed."""
    if shutil.which("stress-ng") is None:
        return []
    return [Load("stress", 1, f"stress:{name}") for name in _STRESSORS]


def check(load: Load, harness: Harness, costs: CostTable, hierarchy: str) -> Outcome:
    """Run *load* in a box of *harness*, by its *costs*, and in a real memcg of *hierarchy* at once.

    Raises: KmemHarnessError if it cannot be run, or makes less than it is asked for.
    """
    place = place_for(load.kind)
    if place is None:
        raise no_place(load.kind)
    with ExitStack() as closing:
        directory = closing.enter_context(directory_in(place))
        if load.kind == "inotify-watch":
            make_watchable(directory, load.step * POINTS)
        memcg = closing.enter_context(RealMemcg(hierarchy))
        box = closing.enter_context(
            harness.run(
                load_command(load.program, directory),
                kmem_limit="64G",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=load_environment(),
            )
        )
        running: Any = box.running
        ask(running)
        (target,) = result_of(BoxProcesses(running.init_pid, with_init=False).list())
        memcg.add(target)
        before = (box.memcg.kmem.usage, memcg.settled_usage())
        if load.kind == "descriptor-table":
            # Its first unit is part of a task's price, and was made outside; the kernel counts what
            # replaces it.
            before = (before[0], before[1] + costs.kinds[load.kind].nbytes)
        emulated, real = [], []
        for number in range(1, POINTS + 1):
            answer = ask(running, load.step)
            if answer != str(number * load.step):
                raise KmemHarnessError(
                    f"{load.program}: {answer} after less than {number * load.step} objects"
                )
            if load.kind == "stress":
                time.sleep(_STRESS_SECONDS)
                if len(memcg.pids()) < _STRESSED:
                    raise KmemHarnessError(f"{load.program} does not run: see stress-ng --help")
            with _standing_still(memcg) if load.kind == "stress" else ExitStack():
                real.append(memcg.settled_usage() - before[1])
                emulated.append(box.memcg.kmem.usage - before[0])
        return Outcome(load.program, tuple(emulated), tuple(real))


@contextmanager
def _standing_still(memcg: RealMemcg) -> Iterator[None]:
    """Stop every process in *memcg* for a while: those that fork do so no more."""
    deadline = time.monotonic() + _STOP_SECONDS
    try:
        while time.monotonic() < deadline:
            pids = memcg.pids()
            states = [stat.state for pid in pids if (stat := stat_of(pid)) is not None]
            if all(state in "TZX" for state in states):
                break
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in memcg.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
