"""What was promised, why what is missed is missed, and the check against a baseline.

Knows figures; measures nothing. Ratios are of one run; bounds are of one machine, which is said
beside them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.measure import BASE

if TYPE_CHECKING:
    from tests.benchmarks.measure import Figures

__all__ = ["BASELINE", "BOUNDS", "CALLS", "TARGETS", "Bound", "Target", "losses", "write_baseline"]

BASELINE = Path(__file__).with_name("baseline.json")
LOSS = 1.20
#: Only what the harness itself is answerable for; peers are there to compare with.
_OURS = ("no limit", "limit", "limit, Python", "limit tasks", "observe", "inject")


#: What the kernel's part of supervising costs: whatever is written above it comes on top.
_FLOOR = "C loop, our filter"
#: What is held against that, and not against native: another machine is another kernel's part. How many
#: calls the filter gives us to answer, which both would pay for, is held by itself.
_AGAINST = dict.fromkeys(("limit", "limit, Python", "observe"), _FLOOR)
CALLS = "supervised calls"
_SUPERVISED = (
    "how many supervised calls one is, and what each costs, the profile above says: its floor, two switches "
    "of tasks and three system calls, is past the target without a line of Python"
)
_WARM = (
    "perf: 76 % of the controller's samples are in the kernel, 10 % in the interpreter, 9 % in the C library, 3 "
    "% in the fast path; of 100,000 calls some 250 are left to Python"
)
_ONE_CALL = (
    "one is one supervised call. perf: 53 % of the controller's samples are in the kernel, 36 % in the "
    "interpreter: looks at peaks, and what a caller's address space adds to a fork, read anew every 50 ms; the "
    "fast path takes 3 %"
)
_FILTER = (
    "under any filter a call leaves the kernel's short way in: one that traps nothing costs the same, see "
    "the row that compares with it"
)
_PEER = "the fork itself is most of what is compared: see native beside that peer in the table"
_COUNTING = (
    "where tasks are made or end elsewhere on the host meanwhile, all thousand are counted again, and "
    "counting gets a fifth of the time: others call, too"
)
_SHARED = (
    "one thread answers all boxes. Traced: who calls beside a bomb waits for the step that is being taken for "
    "it, of 50 to 350 us, and then for a processor: bomb, caller and controller share two"
)
_SWITCHING = (
    "sampled, looks at peaks and timelines take three quarters of the time, and four fifths of that is answering "
    "others meanwhile; each box's first calls are peaks, and looked at one after the other"
)
_BOX_MEMORY = (
    "what a box's own processes map is kept for its address spaces, and differs by command"
)
_IMPORTS = (
    "by instructions: Python itself 13 %, click 44 %, pluggy, TOML, sockets and ours the rest"
)
_ENDS = "its imports, beside which the controller starts and is ready as soon; then 10 for the box"


@dataclass(frozen=True)
class Target:
    """One row of what is promised: a way of a load against another way of it."""

    text: str
    load: str
    way: str
    base: str
    at_most: float
    why: str = ""

    def reached(self, figures: Figures) -> float | None:
        """Give the ratio reached; ``None`` if it was not measured."""
        return figures.ratio(self.load, self.way, self.base)


TARGETS = (
    Target(
        "one supervised call, three levels, to an empty C loop",
        "call",
        "limit",
        "C loop",
        2.0,
        _WARM,
    ),
    Target("the same to an empty Python loop", "call", "limit", "Python loop", 1.3, _WARM),
    Target("the same to one that Python answers", "call", "limit", "limit, Python", 0.5),
    Target("fork, exit, wait under a limit to native", "fork", "limit", "native", 1.25, _ONE_CALL),
    Target("the same to sandlock", "fork", "limit", "sandlock", 0.5, _PEER),
    Target("the same to strace --inject", "fork", "limit", "strace", 0.4, _PEER),
    Target(
        "the same while a thread of the test computes",
        "fork",
        "limit, busy",
        "native, busy",
        1.5,
        _ONE_CALL,
    ),
    Target(
        "a shell script under a limit to native", "script", "limit", "native", 1.05, _SUPERVISED
    ),
    Target(
        "a parallel C compile under a limit to native",
        "compile",
        "limit",
        "native",
        1.05,
        _SUPERVISED,
    ),
    Target(
        "redis-benchmark under a limit to native", "redis", "limit", "native", 1.05, _SUPERVISED
    ),
    Target(
        "the shell script, tasks alone limited", "script", "limit tasks", "native", 1.05, _ONE_CALL
    ),
    Target("the compile, tasks alone limited", "compile", "limit tasks", "native", 1.05, _ONE_CALL),
    Target("redis-benchmark, tasks alone limited", "redis", "limit tasks", "native", 1.05, _FILTER),
    Target("read, write, futex under a limit to native", "plain", "limit", "native", 1.01, _FILTER),
    Target("the same to a filter of one call, never made", "plain", "limit", "C loop", 1.01),
    *(
        Target(f"{what} to an empty C loop under our filter", load, "limit", _FLOOR, 2.0)
        for what, load in (
            ("fork, exit, wait", "fork"),
            ("the compile", "compile"),
            ("redis", "redis"),
        )
    ),
    Target("fork, exit, wait without a limit to native", "fork", "no limit", "native", 1.05),
)


@dataclass(frozen=True)
class Bound:
    """One row of what is promised in absolute figures, or of one figure of ours to another.

    :param at_most: the bound; with *at_least* from the other side.
    :param why: what a profile says, should it be missed.
    """

    text: str
    at_most: float
    unit: str
    why: str = ""
    at_least: bool = False

    def holds(self, reached: float) -> bool:
        """Say whether *reached* is within it."""
        return reached >= self.at_most if self.at_least else reached <= self.at_most


BOUNDS = {
    "refused p50": Bound("a refused fork among 1,000 tasks, median", 100, "us", _COUNTING),
    "refused p99": Bound("the same, p99", 5_000, "us", _COUNTING),
    "other p99": Bound("p99 of another box's threads beside it, to p99 alone", 2, "x", _SHARED),
    "64 boxes": Bound(
        "calls a second of 64 boxes, to one box", 0.8, "x", _SWITCHING, at_least=True
    ),
    "512 memory": Bound("the controller's memory, without boxes", 60_000, "kB"),
    "512 each": Bound("for each of 512 boxes", 30, "kB", _BOX_MEMORY),
    "512 start": Bound("all 512 boxes started", 20, "s"),
    "run": Bound("kmem-harness run --kmem-limit 8M -- true", 120, "ms", _ENDS),
    "import": Bound("of which imports", 60, "ms", _IMPORTS),
    "box": Bound("a box of a running Harness, from start to end", 15, "ms"),
    "docker": Bound("a container's start, beyond Docker's own", 30, "ms"),
}


def write_baseline(figures: Figures, path: Path = BASELINE) -> None:
    """Keep this run's figures as those that may not be lost."""
    text = json.dumps(_guarded(figures), indent=1, sort_keys=True)
    path.write_text(f"{text}\n", encoding="utf-8")


def losses(figures: Figures, path: Path = BASELINE) -> list[str]:
    """Name each figure that is a fifth worse than the baseline's: load, way, and both figures."""
    now = _guarded(figures)
    return [
        f"{load}, {way}: {now[load][way]:.2f}{_unit(way)}, was {before:.2f}"
        for load, ways in sorted(json.loads(path.read_text(encoding="utf-8")).items())
        for way, before in sorted(ways.items())
        if way in now.get(load, {}) and now[load][way] > before * LOSS
    ]


def _guarded(figures: Figures) -> dict[str, dict[str, float]]:
    """Give what may not be lost, by load and way, and how many calls of each load are supervised."""
    found: dict[str, dict[str, float]] = {}
    for load in figures.seconds:
        ratios = {way: figures.ratio(load, way, _AGAINST.get(way, BASE)) for way in _OURS}
        found[load] = {way: round(ratio, 3) for way, ratio in ratios.items() if ratio is not None}
        if load in figures.profiles:
            profile, done = figures.profiles[load]
            found[load][CALLS] = round(profile.calls / done, 3)
    return found


def _unit(way: str) -> str:
    return "" if way == CALLS else f" x {_AGAINST.get(way, BASE)}"
