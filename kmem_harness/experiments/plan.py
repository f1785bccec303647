"""Say which runs an experiment needs, and learn from those that are done. Pure; starts nothing.

Each run has a key made of what it is: the same experiment has the same keys in any process, on any
machine, so that a run that is stored is never made again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kmem_harness.limits.search import Search

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kmem_harness.experiments.model import Experiment
    from kmem_harness.experiments.parameters import Bisection, Value

__all__ = ["Job", "Plan", "Series"]


@dataclass(frozen=True)
class Job:
    """One run: JSON-ready, and all a worker needs to know."""

    key: str
    params: Mapping[str, Value]
    repeat: int
    seed: int
    experiment: Mapping[str, Any]
    boxes: tuple[str, ...]
    #: In the matrix: who disturbs whom; else empty.
    pair: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give what goes to a worker."""
        return {
            "key": self.key,
            "params": dict(self.params),
            "repeat": self.repeat,
            "seed": self.seed,
            "experiment": dict(self.experiment),
            "boxes": list(self.boxes),
            "pair": dict(self.pair),
        }


class Series(Search):
    """The bisection of one combination of the other parameters."""

    def __init__(self, params: dict[str, Value], bisection: Bisection) -> None:
        """Start with the highest value: if that fails, none passes."""
        super().__init__(bisection.low, bisection.high, bisection.resolution)
        self.params = params


class Plan:
    """All runs of an experiment, as far as they are known."""

    def __init__(self, experiment: Experiment) -> None:
        """Plan *experiment*."""
        self.experiment = experiment
        self._shape = experiment.as_dict()
        self.series: list[Series] = []
        #: Repeats of one value: those still to be heard of, and how many passed.
        self._waiting: dict[tuple[int, int], tuple[int, int]] = {}
        self._first: list[Job] = list(self._matrix() if experiment.matrix else self._grid())
        self._heard: set[str] = set()
        #: Where a run belongs: (series, value).
        self._belongs: dict[str, tuple[int, int]] = {}

    def first(self) -> list[Job]:
        """Give the runs that need no other's outcome."""
        found = list(self._first)
        for number in range(len(self.series)):
            found += self._repeats(number)
        return found

    @property
    def still_expected(self) -> int:
        """How many runs are still to come, about: a bisection ends when it ends."""
        bisected = sum(series.steps_left for series in self.series) * self.experiment.repeats
        bisected -= sum(
            self.experiment.repeats - left for left, _ in self._waiting.values() if left
        )
        return sum(job.key not in self._heard for job in self._first) + bisected

    def learn(self, key: str, *, passed: bool) -> list[Job]:
        """Take in the outcome of a run; give the runs that it calls for."""
        self._heard.add(key)
        place = self._belongs.get(key)
        if place is None:
            return []
        left, good = self._waiting[place]
        left, good = left - 1, good + passed
        self._waiting[place] = left, good
        if left:
            return []
        needed = self.experiment.pass_rate * self.experiment.repeats
        self.series[place[0]].learn(passed=good >= needed and good > 0)
        return self._repeats(place[0])

    def _grid(self) -> Iterator[Job]:
        vary, repeats = self.experiment.vary, self.experiment.repeats
        for params in vary.combinations():
            if vary.bisection is not None:
                self.series.append(Series(params, vary.bisection))
            else:
                for repeat in range(repeats):
                    yield self._job(params, repeat)

    def _matrix(self) -> Iterator[Job]:
        matrix = self.experiment.matrix
        if matrix is None:
            return
        for params in self.experiment.vary.combinations():
            for victim in matrix.boxes:
                for aggressor in matrix.boxes:
                    pair = {"victim": victim, "aggressor": aggressor}
                    for repeat in range(self.experiment.repeats):
                        yield self._job(params, repeat, pair)

    def _repeats(self, number: int) -> list[Job]:
        series, bisection = self.series[number], self.experiment.vary.bisection
        if series.value is None or bisection is None:
            return []
        place = (number, series.value)
        self._waiting[place] = (self.experiment.repeats, 0)
        params = {**series.params, bisection.name: series.value}
        jobs = [self._job(params, repeat) for repeat in range(self.experiment.repeats)]
        self._belongs.update(dict.fromkeys((job.key for job in jobs), place))
        return jobs

    def _job(
        self, params: Mapping[str, Value], repeat: int, pair: Mapping[str, str] | None = None
    ) -> Job:
        identity = json.dumps([dict(params), repeat, dict(pair or {})], sort_keys=True)
        key = hashlib.sha256(identity.encode()).hexdigest()[:20]
        # Of the run alone: the same in whatever order, and wherever, it is made.
        seeded = hashlib.sha256(f"{self.experiment.seed}/{key}".encode()).digest()
        return Job(
            key=key,
            params=dict(params),
            repeat=repeat,
            seed=int.from_bytes(seeded[:4], "big"),
            experiment=self._shape,
            boxes=self._boxes_of(params, pair or {}),
            pair=dict(pair or {}),
        )

    def _boxes_of(self, params: Mapping[str, Value], pair: Mapping[str, str]) -> tuple[str, ...]:
        if pair:
            return tuple(dict.fromkeys(pair.values()))
        taking_turns = set(self.experiment.vary.values.get("box", ()))
        return tuple(
            box.name
            for box in self.experiment.boxes
            if box.name not in taking_turns or box.name == params.get("box")
        )
