"""Read trace files and check them, field by field, before anything runs.

Knows the schema; runs nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.profiles import KernelProfile, profile_named
from kmem_harness.core.releases import PROFILE_NAMES
from kmem_harness.replay.workloads import WORKLOADS, Workload, workload_named

__all__ = ["NotATraceError", "Trace", "TraceError", "load_trace", "run_lists"]


class TraceError(ConfigurationError):
    """A file is not a trace we can play; the message names file, step and field."""


class NotATraceError(TraceError):
    """A recording of another sort, which says nothing that could be replayed."""


@dataclass(frozen=True)
class Trace:
    """One trace file.

    :param steps: of a step-by-step scenario; empty for a cliff.
    :param workload: of a cliff, a churn or a cost file; ``None`` for a scenario.
    """

    file: str
    name: str
    kernel: str
    profile: KernelProfile
    steps: tuple[dict[str, Any], ...]
    workload: str | None
    data: dict[str, Any]

    @property
    def made(self) -> Workload:
        """What a cliff, a churn or a cost file makes."""
        found = workload_named(self.workload or "")
        if found is None:
            self_name = self.workload or self.name
            message = f"{self.file}: no workload {self_name!r}"
            raise TraceError(message)
        return found


_TEXT, _COUNT, _PATH = (str,), (int,), (str,)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "mkdir": {"file": _PATH},
    "rmdir": {"file": _PATH},
    "unlink": {"file": _PATH},
    "creat": {"file": _PATH},
    "rename": {"file": _PATH, "to": _PATH},
    "stat": {"file": _PATH},
    "ls": {"file": _PATH},
    "write": {"file": _PATH, "value": _TEXT},
    "read": {"file": _PATH},
    "spawn": {"worker": _TEXT, "group": _PATH},
    "do": {"worker": _TEXT, "workload": _TEXT, "count": _COUNT, "made": _COUNT},
    "free": {"worker": _TEXT},
    "kill": {"worker": _TEXT},
    "move": {"worker": _TEXT, "group": _PATH},
    "dropcaches": {},
    "mount-fresh-tmpfs": {},
    "umount-tmpfs": {},
    "sleep": {"milliseconds": _COUNT},
}
_RUN_FIELDS: dict[str, tuple[type, ...]] = {
    "limit_file": _TEXT,
    "limit_text": _TEXT,
    "objects": _COUNT,
    "errno": _TEXT,
    "cap": _COUNT,
    "failcnt": _COUNT,
}
_COST_FIELDS: dict[str, tuple[type, ...]] = {
    "n1": _COUNT,
    "n2": _COUNT,
    "usage1": _COUNT,
    "usage2": _COUNT,
}


# More than any machine records, and all that can be played in reasonable time.
_MOST = 10_000_000
_MOST_BYTES = 1 << 63
_BOUNDED = frozenset({"count", "milliseconds", "padded_with_spaces_to"})


def run_lists(data: dict[str, Any]) -> list[str]:
    """Name the lists of runs a file has: under the kmem limit, repeated, under other limits."""
    return [key for key in data if key.startswith("runs") or key == "repeats"]


def load_trace(path: str) -> Trace:
    """Read one file.

    Raises: TraceError.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise TraceError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"{path}: not JSON: {error}"
        raise TraceError(message) from error
    return _Checker(path).trace(data)


class _Checker:
    def __init__(self, file: str) -> None:
        self._file = file

    def trace(self, data: object) -> Trace:
        if not isinstance(data, dict):
            self._fail("", "a trace is an object with scenario or workload")
        self._only_traces(data)
        kernel = self._field(data, "kernel", _TEXT, "")
        profile = self._profile(kernel)
        if "steps" in data:
            name = self._field(data, "scenario", _TEXT, "")
            steps = self._field(data, "steps", (list,), "")
            checked = tuple(self._step(step, number) for number, step in enumerate(steps, 1))
            self._workers(checked)
            return Trace(self._file, name, kernel, profile, checked, None, data)
        name = self._field(data, "workload", _TEXT, "")
        self._known_workload(name, "")
        return Trace(self._file, name, kernel, profile, (), name, self._runs(data))

    def _only_traces(self, data: dict[str, Any]) -> None:
        if "steps" in data or "scenario" in data:
            return
        runs = data.get("runs")
        scripted = isinstance(runs, list) and any(
            isinstance(run, dict) and ("script" in run or "us_per_op" in run) for run in runs
        )
        if scripted or "caches" in data:
            message = f"{self._file}: shell, timing and slab recordings hold nothing to replay"
            raise NotATraceError(message)

    def _profile(self, kernel: str) -> KernelProfile:
        match = re.match(r"(v4|[0-9]+\.[0-9]+)(?![0-9])", kernel)
        if match is None or match[1] not in PROFILE_NAMES:
            known = ", ".join(PROFILE_NAMES)
            self._fail("kernel", f"unknown kernel profile {kernel!r}; known are {known}")
        return profile_named(match[1])

    def _step(self, step: object, number: int) -> dict[str, Any]:
        where = f"step {number}"
        if not isinstance(step, dict):
            self._fail("steps", "a step is an object", where)
        where = f"step {step.get('step', number)}"
        op = self._field(step, "op", _TEXT, where)
        if op not in _FIELDS:
            self._fail("op", f"unknown op {op!r}; known are {', '.join(_FIELDS)}", where)
        result = self._field(step, "result", _TEXT, where)
        for name, kinds in _FIELDS[op].items():
            self._field(step, name, kinds, where)
        for name in _BOUNDED & step.keys():
            self._bounded(step, name, where)
        if op == "read" and result == "ok":
            self._field(step, "value", _TEXT, where)
        if op == "do":
            self._known_workload(step["workload"], where)
        again = step.get("second_recording", {})
        if not isinstance(again, dict):
            self._fail("second_recording", "an object", where)
        return step

    def _workers(self, steps: tuple[dict[str, Any], ...]) -> None:
        started = set()
        for number, step in enumerate(steps, 1):
            if step["op"] == "spawn":
                started.add(step["worker"])
            elif "worker" in _FIELDS[step["op"]] and step["worker"] not in started:
                where = f"step {step.get('step', number)}"
                self._fail("worker", f"{step['worker']!r} was never spawned", where)

    def _runs(self, data: dict[str, Any]) -> dict[str, Any]:
        if not run_lists(data) and "cost" not in data:
            self._fail("runs", "missing")
        checked = dict(data)
        for key in run_lists(data):
            checked[key] = self._as_list(data.get(key), key)
            for number, run in enumerate(checked[key], 1):
                for name, kinds in _RUN_FIELDS.items():
                    self._field(run, name, kinds, f"{key} {number}")
                self._bounded(run, "cap", f"{key} {number}")
                if not isinstance(run.get("next_100", {}), dict):
                    self._fail("next_100", "counts by errno", f"{key} {number}")
        checked["cost"] = self._as_list(data.get("cost"), "cost")
        for number, cost in enumerate(checked["cost"], 1):
            for name, kinds in _COST_FIELDS.items():
                self._field(cost, name, kinds, f"cost {number}")
                self._bounded(cost, name, f"cost {number}")
        return checked

    def _as_list(self, value: object, key: str) -> list[dict[str, Any]]:
        given = [] if value is None else value if isinstance(value, list) else [value]
        values = [each for each in given if isinstance(each, dict)]
        if len(values) != len(given):
            self._fail(key, "a list of objects")
        return values

    def _known_workload(self, name: str, where: str) -> None:
        if workload_named(name) is None:
            known = ", ".join(sorted(WORKLOADS))
            self._fail("workload", f"unknown workload {name!r}; known are {known}", where)

    def _field(self, entry: dict[str, Any], name: str, kinds: tuple[type, ...], where: str) -> Any:
        if name not in entry:
            self._fail(name, "missing", where)
        value = entry[name]
        if isinstance(value, bool) or not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            self._fail(name, f"{wanted} wanted, not {value!r}", where)
        return value

    def _bounded(self, entry: dict[str, Any], name: str, where: str) -> None:
        """Refuse counts that no machine could have recorded, and that would never end here."""
        value = self._field(entry, name, _COUNT, where)
        most = _MOST_BYTES if name.startswith("usage") else _MOST
        if not 0 <= value <= most:
            self._fail(name, f"0 to {most:,}, not {value}", where)

    def _fail(self, field: str, why: str, where: str = "") -> NoReturn:
        place = ", ".join(part for part in (where, f"field {field!r}" if field else "") if part)
        message = f"{self._file}: {place}: {why}" if place else f"{self._file}: {why}"
        raise TraceError(message)
