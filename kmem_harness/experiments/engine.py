"""Carry out an experiment: plan, have runs made, keep each once, learn, and say what was found.

Whoever kills it may start it again: what is stored is not made again.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.experiments.checks import check, check_programs
from kmem_harness.experiments.executor import LocalExecutor
from kmem_harness.experiments.findings import findings_of
from kmem_harness.experiments.plan import Plan
from kmem_harness.experiments.store import Store
from kmem_harness.report.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.experiments.executor import Executor
    from kmem_harness.experiments.model import Experiment
    from kmem_harness.experiments.plan import Job

__all__ = [
    "RESULTS",
    "OracleNeverPassesError",
    "Watcher",
    "executor_for",
    "results_of",
    "run",
    "slots_for",
]

RESULTS = "results.sqlite"
_JSON = "results.json"
_LOOK_SECONDS = 0.5


class OracleNeverPassesError(ConfigurationError):
    """Not even the easiest run passes: the oracle, not the limit, is at fault."""


class Watcher(Protocol):
    """Whoever wants to be told how it goes."""

    def progress(self, done: int, expected: int, failed: int) -> None:
        """Hear that *done* of about *expected* runs are there, *failed* of which did not pass."""


class _Quiet:
    def progress(self, done: int, expected: int, failed: int) -> None:
        """Say nothing."""


def run(
    experiment: Experiment,
    folder: str,
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Make the runs of *experiment* that *folder* does not hold yet; give all results.

    *executor* is closed at the end; by default *jobs* worker processes of this machine make the
    runs, as many as :func:`slots_for` says.

    Shape: see :func:`results_of`. Raises: ConfigurationError; OracleNeverPassesError if not even
    the easiest run passes; RunImpossibleError, RunLostError; what is stored stays.
    """
    with closing(executor or LocalExecutor(jobs or slots_for(experiment))) as workers:
        check(experiment)
        if isinstance(workers, LocalExecutor):
            check_programs(experiment)
        os.makedirs(folder, exist_ok=True)
        with Store(os.path.join(folder, RESULTS), experiment) as store:
            plan = Plan(experiment)
            store.forget_provisional()
            loop = _Loop(plan, store, watcher or _Quiet())
            loop.carry_out(loop.from_store(plan.first()), workers)
            results = results_of(store)
    write_results(folder, results)
    _complain_of_oracle(plan, results, folder)
    return results


def results_of(store: Store) -> dict[str, Any]:
    """Give all that *store* holds: ``{"version", "experiment", "runs", "findings"}``, JSON-ready.

    Runs stand in the order of their parameters, whenever and wherever they were made.
    """
    shape = store.experiment
    order = [*shape["vary"]["values"]]
    if shape["vary"]["bisection"]:
        order.append(shape["vary"]["bisection"]["name"])
    places = {
        name: {json.dumps(value): at for at, value in enumerate(values)}
        for name, values in shape["vary"]["values"].items()
    }

    def place(one: Mapping[str, Any]) -> tuple[Any, ...]:
        params = one["params"]
        at = (places.get(name, {}).get(json.dumps(params[name]), params[name]) for name in order)
        return (*at, *one["pair"].values(), one["repeat"])

    runs = sorted(store.outcomes().values(), key=place)
    return {"version": 1, "experiment": shape, "runs": runs, "findings": findings_of(shape, runs)}


def write_results(folder: str, results: Mapping[str, Any]) -> None:
    """Write the results as JSON beside the database, whole or not at all."""
    write_json(os.path.join(folder, _JSON), results, indent=1)


def slots_for(experiment: Experiment) -> int:
    """Choose how many runs go at once: one for each CPU, but one where latencies are compared."""
    oracle = experiment.oracle
    return 1 if experiment.matrix or oracle.isolated or oracle.p99 else os.cpu_count() or 1


def executor_for(text: str, slots: int) -> Executor:
    """Make the executor that ``--executor`` names: local, dask, or dask=ADDRESS.

    Raises: ConfigurationError, UnsupportedHostError.
    """
    kind, _, address = text.partition("=")
    if kind == "local" and not address:
        return LocalExecutor(slots)
    if kind == "dask":
        from kmem_harness.experiments.on_dask import DaskExecutor  # noqa: PLC0415 - heavy

        return DaskExecutor(address or None, slots)
    message = f"executor {text!r} is not known; known are local, dask and dask=tcp://HOST:PORT"
    raise ConfigurationError(message)


class _Loop:
    """Runs that are there, and runs that are under way."""

    def __init__(self, plan: Plan, store: Store, watcher: Watcher) -> None:
        self._plan = plan
        self._store = store
        self._watcher = watcher
        self._stored = store.outcomes()
        self._done: dict[str, bool] = {}
        self._under_way: set[str] = set()

    def from_store(self, jobs: list[Job]) -> list[Job]:
        """Learn from what is stored of *jobs* and what they call for; give those to be made."""
        todo: list[Job] = []
        waiting = list(jobs)
        while waiting:
            job = waiting.pop(0)
            stored = self._stored.get(job.key)
            if stored is None:
                todo.append(job)
            else:
                waiting += self._learn(job.key, passed=stored["passed"])
        return todo

    def carry_out(self, todo: list[Job], executor: Executor) -> None:
        """Have *todo* made, and what comes of it."""
        self._hand_out(todo, executor)
        self._tell()
        while self._under_way:
            answer = executor.next_result(_LOOK_SECONDS)
            if answer is not None:
                outcome = answer["outcome"]
                self._under_way.discard(outcome["key"])
                # A run whose worker was given up for lost may come in twice; the first one counts.
                if self._store.add(outcome, answer["reports"]):
                    more = self._learn(outcome["key"], passed=outcome["passed"])
                    self._hand_out(self.from_store(more), executor)
            self._tell()

    def _hand_out(self, jobs: list[Job], executor: Executor) -> None:
        for job in jobs:
            self._under_way.add(job.key)
            executor.submit(job)

    def _learn(self, key: str, *, passed: bool) -> list[Job]:
        self._done[key] = passed
        return self._plan.learn(key, passed=passed)

    def _tell(self) -> None:
        done = len(self._done)
        failed = sum(not passed for passed in self._done.values())
        self._watcher.progress(done, done + self._plan.still_expected, failed)


def _complain_of_oracle(plan: Plan, results: Mapping[str, Any], folder: str) -> None:
    """Say so where a bisection found nothing because nothing can pass."""
    if not plan.series or not all(series.hopeless for series in plan.series):
        return
    bisection = plan.experiment.vary.bisection
    first = next(one for one in results["runs"] if not one["passed"])
    again = "; the next start makes this one again" if first["provisional"] else ""
    raise OracleNeverPassesError(
        f"no value of {bisection.name if bisection else '?'} passes, not even the largest, "
        f"{first['params']}: {'; '.join(first['reasons'])}; mend the command or the oracle, or "
        f"give a larger end. The runs are in {folder}{again}"
    )
