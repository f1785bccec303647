"""Replay one trace file and say what came of it.

Joins traces, machine, costs and verdict; knows no command line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

from kmem_harness.costs.table import CostTable, load_costs
from kmem_harness.replay.cliff import cliff_differences, play_cliff
from kmem_harness.replay.machine import Machine
from kmem_harness.replay.scenario import play_scenario
from kmem_harness.replay.trace import NotATraceError, Trace, TraceError, load_trace
from kmem_harness.replay.verdict import step_differences

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

__all__ = ["Outcome", "Result", "record", "replay_file"]

_LONG = 200


class Outcome(Enum):
    """What came of one file."""

    PASSED = "PASS"
    FAILED = "FAIL"
    BAD_TRACE = "ERROR"
    NOT_A_TRACE = "SKIP"


@dataclass(frozen=True)
class Result:
    """What came of one file.

    :param differences: lines that show each differing step side by side, or the error.
    :param played: the emulated run in the schema of the traces; ``None`` if nothing ran.
    """

    file: str
    outcome: Outcome
    nr_checked: int
    differences: tuple[str, ...]
    played: dict[str, Any] | None

    @property
    def passed(self) -> bool:
        """Whether the emulation did what was recorded."""
        return self.outcome is Outcome.PASSED

    @property
    def failed(self) -> bool:
        """Whether it did not, or could not be asked."""
        return self.outcome in {Outcome.FAILED, Outcome.BAD_TRACE}


@lru_cache(maxsize=8)
def _costs(kernel: str) -> CostTable:
    return load_costs(kernel)


def replay_file(
    path: str | PathLike[str], *, costs: str | None = None, stream: TextIO | None = None
) -> Result:
    """Play one trace on the profile it names, and compare.

    :param costs: a cost table's name or path, in place of the profile's own.
    :param stream: where to show the result, if anywhere.
    """
    result = _replay(str(path), costs)
    if stream is not None:
        note = f" ({result.nr_checked} compared)" if result.nr_checked else ""
        print(f"{result.outcome.value} {result.file}{note}", file=stream)
        for line in result.differences:
            print(f"  {line}", file=stream)
    return result


def _replay(file: str, costs: str | None) -> Result:
    try:
        trace = load_trace(file)
    except NotATraceError as error:
        return Result(file, Outcome.NOT_A_TRACE, 0, (str(error),), None)
    except TraceError as error:
        return Result(file, Outcome.BAD_TRACE, 0, (str(error),), None)
    table = _costs(costs or trace.profile.name)
    if trace.workload is not None:
        played = play_cliff(trace, table)
        lines = tuple(
            f"{where}: {field}: recorded {theirs}, emulated {ours}"
            for where, field, theirs, ours in cliff_differences(trace, played)
        )
        nr_checked = sum(len(part) for part in played.values() if isinstance(part, list))
    else:
        steps = play_scenario(trace, Machine(trace.profile, table))
        played = {"scenario": trace.name, "kernel": trace.kernel, "steps": steps}
        lines = _scenario_lines(trace, steps)
        nr_checked = len(steps)
    outcome = Outcome.FAILED if lines else Outcome.PASSED
    return Result(file, outcome, nr_checked, lines, played)


def _scenario_lines(trace: Trace, steps: list[dict[str, Any]]) -> tuple[str, ...]:
    lines: list[str] = []
    for step, ours in zip(trace.steps, steps, strict=True):
        fields = step_differences(step, ours)
        if not fields:
            continue
        target = step.get("file") or step.get("worker") or ""
        lines.append(f"step {step.get('step', '?')} {step['op']} {target}")
        for field in fields:
            theirs = [step.get(field)]
            again = step.get("second_recording", {})
            if field in again:
                theirs.append(again[field])
            recorded = " or ".join(json.dumps(each)[:_LONG] for each in theirs)
            lines.append(f"    {field:<12} recorded {recorded:<24} emulated {_show(ours, field)}")
    return tuple(lines)


def _show(step: dict[str, Any], field: str) -> str:
    return json.dumps(step.get(field))[:_LONG]


def record(result: Result, out: Path) -> None:
    """Write the emulated run as a trace of the same schema."""
    if result.played is None:
        return
    played = dict(result.played)
    for key, value in played.items():
        if isinstance(value, list):
            played[key] = [{k: v for k, v in each.items() if k != "ties"} for each in value]
    out.write_text(json.dumps(played, indent=1) + "\n", encoding="utf-8")
