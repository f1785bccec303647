"""Make one run, wherever a worker is: a harness of its own, boxes, questions, a verdict.

All it is told is a job's JSON, and all it tells is JSON.
"""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.experiments.probe import Latency, measure, wait_for
from kmem_harness.experiments.resolve import Resolved, resolve
from kmem_harness.experiments.units import Units
from kmem_harness.experiments.verdict import Seen, judge
from kmem_harness.harness import Harness

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kmem_harness.experiments.model import BoxPlan, Request
    from kmem_harness.harness import Box

__all__ = ["run_once"]

_STOP_SECONDS = 5.0
_TAIL = 2000
_EVERYBODY_MAY_PASS = 0o711


def run_once(job: Mapping[str, Any]) -> dict[str, Any]:
    """Make the run that *job* describes; see :class:`~kmem_harness.experiments.plan.Job`.

    Shape: ``{"outcome": {...}, "reports": {box: report}}``, JSON-ready. A run that failed its
    oracle is an outcome. Raises: KmemHarnessError, OSError where no such run can be made.
    """
    began, started = time.monotonic(), time.time()
    with tempfile.TemporaryDirectory(prefix="kmem-run-") as directory, _ports(job) as ports:
        os.chmod(directory, _EVERYBODY_MAY_PASS)  # a service may run as another user
        run = resolve(job, ports, directory)
        with Harness(run.kernel) as harness:
            one = _Run(harness, run, directory)
            reasons = one.go()
            summed = {name: box.report() for name, box in one.boxes.items()}
            reports = one.reports()
        reasons += judge(run.oracle, one.seen(summed))
        said = {name: _tail(directory, name) for name in one.boxes} if reasons else {}
    return {
        "outcome": {
            "key": job["key"],
            "params": job["params"],
            "repeat": job["repeat"],
            "seed": job["seed"],
            "pair": job["pair"],
            "passed": not reasons,
            "reasons": reasons,
            # Nothing was refused, and somebody waited in vain: the machine was busy, perhaps.
            "provisional": one.probes_failed
            and not any(report["refusals"]["total"] for report in reports.values()),
            "said": {name: text for name, text in said.items() if text},
            "started": round(started, 3),
            "seconds": round(time.monotonic() - began, 3),
            "worker": f"{platform.node()}:{os.getpid()}",
            "latency": one.latencies,
            "boxes": {name: _in_short(report) for name, report in reports.items()},
        },
        "reports": reports,
    }


class _Run:
    """The boxes of one run, and what was found out about them."""

    def __init__(self, harness: Harness, run: Resolved, directory: str) -> None:
        self._harness = harness
        self._run = run
        self._directory = directory
        self._deadline = time.monotonic() + run.timeout
        self._outputs = ExitStack()
        self.boxes: dict[str, Box | Units] = {}
        #: How the victims answered: by box, alone and beside each aggressor.
        self.latencies: dict[str, dict[str, dict[str, float]]] = {}
        #: Boxes that ended by themselves, and those of them that should have stayed.
        self._ended: set[str] = set()
        self._early: set[str] = set()
        #: Whether somebody waited in vain: for an answer, or for an end.
        self.probes_failed = False

    def go(self) -> list[str]:
        """Take the run from its start to its end; give what went wrong on the way."""
        run = self._run
        for path, limits in run.memcgs.items():
            self._harness.memcg(path, **limits)
        aggressors = {pair.aggressor for pair in run.oracle.isolated}
        waiting = [box for box in run.boxes if box.name not in aggressors]
        with self._outputs:
            try:
                return (
                    self._start(box for box in waiting if box.background or run.is_pair)
                    or self._measure()
                    or self._start(box for box in run.boxes if box.name in aggressors)
                    or self._measure_beside()
                    or self._start(box for box in waiting if not (box.background or run.is_pair))
                    or self._see_through(aggressors)
                )
            finally:
                self._stop()

    def reports(self) -> dict[str, Any]:
        """Give the report of each box, and of each service that units are made of."""
        found: dict[str, Any] = {}
        for name, box in self.boxes.items():
            if isinstance(box, Units):
                found |= {f"{name}/{unit}": report for unit, report in box.reports().items()}
            else:
                found[name] = box.report()
        return found

    def seen(self, reports: Mapping[str, Any]) -> Seen:
        """Give what the oracle looks at."""
        latencies = {
            name: {when: Latency(**row) for when, row in rows.items()}  # type: ignore[arg-type]
            for name, rows in self.latencies.items()
        }
        return Seen(reports, latencies, self._ended, self._early)

    def _start(self, plans: Iterator[BoxPlan]) -> list[str]:
        for plan in plans:
            box = (
                Units(self._harness, plan, self._directory) if plan.unit else self._start_box(plan)
            )
            self.boxes[plan.name] = box
            if plan.ready is not None:
                wrong = self._wait_for(plan.ready, box)
                if wrong:
                    self.probes_failed = True
                    where = f"{plan.ready.within:g} s (box.{plan.name}.ready.within)"
                    return [f"{plan.name} was not ready within {where}: {wrong}"]
        return []

    def _start_box(self, plan: BoxPlan) -> Box:
        options: dict[str, Any] = {
            name: value
            for name in ("image", "runtime", "memcg", "cwd", "pids_max", "kmem_limit")
            if (value := getattr(plan, name)) is not None
        }
        if plan.memory_limit is not None:
            options["memory_limit"] = plan.memory_limit
        if plan.env:
            options["env"] = {**os.environ, **plan.env}
        if plan.inject:
            options["faults"] = list(plan.inject)
        out = self._outputs.enter_context(open(_output(self._directory, plan.name), "wb"))  # noqa: SIM115
        return self._harness.run(
            plan.command, stdin=_nothing(self._outputs), stdout=out, stderr=out, **options
        )

    def _wait_for(self, request: Request, box: Box | Units) -> str:
        return wait_for(request, lambda: _runs(box) and time.monotonic() < self._deadline)

    def _measure(self) -> list[str]:
        victims = {*self._run.oracle.p99, *(pair.victim for pair in self._run.oracle.isolated)}
        return self._measured({name: "alone" for name in victims if name in self.boxes})

    def _measure_beside(self) -> list[str]:
        pairs = {pair.victim: pair.aggressor for pair in self._run.oracle.isolated}
        return self._measured(pairs)

    def _measured(self, victims: Mapping[str, str]) -> list[str]:
        for name, when in victims.items():
            probe = next(box.probe for box in self._run.boxes if box.name == name)
            if probe is None:
                continue
            latency = measure(probe, probe.seconds, probe.period)
            self.latencies.setdefault(name, {})[when] = latency.as_dict()
        return []

    def _see_through(self, aggressors: set[str]) -> list[str]:
        """Wait for those that end by themselves, then ask after the health of the others."""
        for plan in self._run.boxes:
            if plan.background or plan.name in aggressors or self._run.is_pair:
                continue
            try:
                self.boxes[plan.name].wait(max(self._deadline - time.monotonic(), 0.001))
            except TimeoutError:
                self.probes_failed = True
                return [f"{plan.name} had not ended after {self._run.timeout:g} s"]
            self._ended.add(plan.name)
        reasons = []
        for plan in self._run.boxes:
            if plan.health is not None:
                wrong = self._wait_for(plan.health, self.boxes[plan.name])
                if wrong:
                    self.probes_failed = True
                    reasons.append(
                        f"{plan.name} is not healthy within {plan.health.within:g} s "
                        f"(box.{plan.name}.health.within): {wrong}"
                    )
            if plan.background and plan.name not in aggressors and not _runs(self.boxes[plan.name]):
                self._early.add(plan.name)
        return reasons

    def _stop(self) -> None:
        for box in reversed(self.boxes.values()):
            if _runs(box):
                with suppress(KmemHarnessError, OSError):
                    box.stop(_STOP_SECONDS)
            box.close()


def _runs(box: Box | Units) -> bool:
    """Say whether a box still runs, without waiting."""
    if box.status is None:
        with suppress(TimeoutError):
            box.wait(0)
    return box.status is None


@contextmanager
def _ports(job: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Choose a free TCP port for each box, all different."""
    ports = {}
    with ExitStack() as held:
        for name in job["boxes"]:
            one = held.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            ports[name] = one.getsockname()[1]
    yield ports


def _nothing(held: ExitStack) -> Any:
    return held.enter_context(open(os.devnull, "rb"))


def _output(directory: str, name: str) -> str:
    return os.path.join(directory, f"{name}.out")


def _tail(directory: str, name: str) -> str:
    with suppress(OSError), open(_output(directory, name), "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
        return file.read().decode(errors="replace").strip()
    return ""


def _in_short(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "exit_code": report["exit_code"],
        "signal": report["signal"],
        "mode": report["mode"],
        "kmem": report["memcg"]["kmem"],
        "refused": report["refusals"]["total"],
        "first_refusal": report["refusals"]["first"],
        "live_peak": {
            kind: row["live_peak"] for kind, row in report["kinds"].items() if row["live_peak"]
        },
    }
