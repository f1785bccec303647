"""Judge one run by what was seen of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmem_harness.experiments.isolation import complaint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.experiments.model import Oracle
    from kmem_harness.experiments.probe import Latency

__all__ = ["Seen", "judge"]


@dataclass(frozen=True)
class Seen:
    """What was seen of a run.

    Shape: reports by box, latencies by box and company; boxes that ended by themselves, and those
    of them that were expected to stay.
    """

    reports: Mapping[str, Mapping[str, Any]]
    latencies: Mapping[str, Mapping[str, Latency]]
    ended: set[str]
    early: set[str]


def judge(oracle: Oracle, seen: Seen) -> list[str]:
    """List what is wrong, in words; nothing if the run passed.

    A box whose exit code nobody speaks of must end with 0 if it ends by itself, and must not end
    at all before it is stopped if it is in the background.
    """
    return [
        *_exits(oracle, seen),
        *_refusals(oracle, seen),
        *_latencies(oracle, seen),
    ]


def _exits(oracle: Oracle, seen: Seen) -> list[str]:
    found = []
    for name, report in seen.reports.items():
        code = report["exit_code"]
        allowed = oracle.exit.get(name)
        if name in seen.early and allowed is None:
            found.append(f"{name} ended too early, with {_ending(report)}")
            continue
        if name in seen.ended and allowed is None:
            allowed = (0,)
        if allowed is not None and code not in allowed:
            wanted = " or ".join(map(str, allowed))
            found.append(f"{name} ended with {_ending(report)}, not {wanted}")
    return found


def _refusals(oracle: Oracle, seen: Seen) -> list[str]:
    found = []
    for name, most in oracle.refused.items():
        refusals = seen.reports.get(name, {}).get("refusals", {})
        if refusals.get("total", 0) > most:
            first = refusals["first"]
            found.append(
                f"{name} was refused {refusals['total']} calls, at most {most} may be; first "
                f"{first['syscall']} ({first['kind']}) by {first['comm']}, {first['counter']} of "
                f"{first['refused_by']}"
            )
    return found


def _latencies(oracle: Oracle, seen: Seen) -> list[str]:
    found = []
    for name, most in oracle.p99.items():
        latency = seen.latencies.get(name, {}).get("alone")
        if latency is not None and (latency.failures or latency.p99 > most):
            found.append(
                f"{name}: p99 {latency.p99 * 1000:.2f} ms with {latency.failures} of "
                f"{latency.samples} requests failed; at most {most * 1000:g} ms and none are allowed"
            )
    for pair in oracle.isolated:
        rows = seen.latencies.get(pair.victim, {})
        if "alone" in rows and pair.aggressor in rows:
            alone, beside = rows["alone"], rows[pair.aggressor]
            wrong = complaint(pair.victim, alone, beside, pair.p99, pair.slack)
            if wrong:
                found.append(wrong)
    return found


def _ending(report: Mapping[str, Any]) -> str:
    if report["signal"]:
        return f"signal {report['signal']}"
    return f"exit code {report['exit_code']}"
