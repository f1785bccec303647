"""Run loads in ways, interleaved, and keep every figure: medians, spread, ratios.

Knows numbers; knows nothing of what is run. Everything is compared within one run: absolute times
of this machine, at this moment, say little.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.benchmarks.loads import Load

__all__ = ["BASE", "Figures", "Profile", "measure", "processor_seconds", "seconds_of_one"]

BASE = "native"
Run = "Callable[[Sequence[str]], str]"
_TICK = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> tuple[float, float]:
    """Give the processor time that process *pid* has used: in user mode, and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) / _TICK, int(fields[12]) / _TICK


class Profile(NamedTuple):
    """What the controller did for one load under a limit: calls it answered, and its seconds."""

    calls: int
    user: float
    system: float


@dataclass
class Figures:
    """Seconds of one, by load and way, a list over the rounds."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    #: By load, over all that was done of it under a limit.
    profiles: dict[str, tuple[Profile, int]] = field(default_factory=dict)

    def add(self, load: str, way: str, seconds: float) -> None:
        """Keep one figure."""
        self.seconds.setdefault(load, {}).setdefault(way, []).append(seconds)

    def median(self, load: str, way: str) -> float | None:
        """Give the median seconds of one; ``None`` if it was not measured."""
        each = self.seconds.get(load, {}).get(way)
        return statistics.median(each) if each else None

    def spread(self, load: str, way: str) -> float:
        """Give half the interquartile range, as a share of the median."""
        each = self.seconds[load][way]
        if len(each) < 4:
            return (max(each) - min(each)) / 2 / statistics.median(each)
        low, _, high = statistics.quantiles(each, n=4)
        return (high - low) / 2 / statistics.median(each)

    def ratio(self, load: str, way: str, base: str = BASE) -> float | None:
        """Compare a way with another, round by round; the median of the quotients."""
        ours = self.seconds.get(load, {}).get(way)
        theirs = self.seconds.get(load, {}).get(base)
        if not ours or not theirs:
            return None
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=False))

    def as_json(self) -> dict[str, Any]:
        """Shape: load -> way -> median_us, spread, ratio to native, and every figure."""
        return {
            load: {
                way: {
                    "median_us": round(statistics.median(each) * 1e6, 3),
                    "spread": round(self.spread(load, way), 3),
                    "ratio": round(self.ratio(load, way) or 0, 3) or None,
                    "rounds_us": [round(value * 1e6, 3) for value in each],
                }
                for way, each in ways.items()
            }
            for load, ways in self.seconds.items()
        }


def seconds_of_one(load: Load, run: Callable[[Sequence[str]], str], command: list[str]) -> float:
    """Run one load once; programs say their own time, whole commands are timed from outside."""
    started = time.perf_counter()
    text = run(command)
    took = time.perf_counter() - started
    if load.script is not None:
        return took
    return float(text.partition("ns=")[2].split()[0]) / 1e9


def _seconds_if_it_works(
    load: Load, run: Callable[[Sequence[str]], str], command: list[str]
) -> float | str:
    """Give the seconds, or why there are none: all other figures are worth having."""
    try:
        return seconds_of_one(load, run, command)
    except (RuntimeError, subprocess.SubprocessError) as error:
        return str(error)


def measure(
    loads: Iterable[Load],
    ways_of: Callable[[Load], dict[str, Callable[[Sequence[str]], str]]],
    program: str,
    *,
    rounds: int,
    share: float,
    tell: Callable[[str], None],
) -> Figures:
    """Measure each load in each of its ways, one after the other, *rounds* times."""
    figures = Figures()
    for load in loads:
        ways = ways_of(load)
        command = load.command(program, share)
        tell(f"{load.name}: {load.what}, {len(ways)} ways, {rounds} rounds")
        for number in range(rounds):
            # Each round starts elsewhere, so that nobody always follows the same neighbour.
            names = list(ways)
            names = names[number % len(names) :] + names[: number % len(names)]
            for way in names:
                seconds = _seconds_if_it_works(load, ways[way], command)
                if isinstance(seconds, str):
                    tell(f"{load.name}, {way}: left out, {seconds}")
                    del ways[way]
                else:
                    figures.add(load.name, way, seconds)
    return figures
