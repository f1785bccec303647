"""Play cliff, churn and cost files: how far one process gets under a limit, and what one costs.

Each run gets a fresh machine. Knows workloads and runs; prints nothing.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING, Any

from kmem_harness.costs.table import STUCK
from kmem_harness.replay.machine import KILLED, OK, Machine
from kmem_harness.replay.trace import run_lists
from kmem_harness.replay.verdict import count_matches, figure_matches

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.costs.table import CostTable
    from kmem_harness.replay.trace import Trace

__all__ = ["cliff_differences", "play_cliff"]

# After these the recorder tried no more.
_NO_MORE = frozenset({OK, STUCK, KILLED})
_SHARE = 0.10
_SHARE_CLOSED = 0.20
#: Where each child ends by itself, some more or fewer may not have ended yet: six hold as much as so
#: many zombies. On one machine 51 to 73 fitted under 1M.
_SLACK_ZOMBIES = 34
_KMEM_LIMIT = "memory.kmem.limit_in_bytes"
_LIMIT_FAILCNT = {
    _KMEM_LIMIT: "failcnt",
    "memory.limit_in_bytes": "memory_failcnt",
}


def play_cliff(trace: Trace, costs: CostTable) -> dict[str, Any]:
    """Run every run and cost of a file and return it with the emulated outcomes."""
    played: dict[str, Any] = {"workload": trace.workload, "kernel": trace.kernel}
    for key in run_lists(trace.data):
        if trace.data[key]:
            played[key] = [_play_run(trace, costs, run) for run in trace.data[key]]
    if trace.data["cost"]:
        played["cost"] = [_play_cost(trace, costs, cost) for cost in trace.data["cost"]]
    return played


def _play_run(trace: Trace, costs: CostTable, run: dict[str, Any]) -> dict[str, Any]:
    machine = Machine(trace.profile, costs)
    workload = trace.workload or ""
    if trace.made.churns:
        # Nothing that is freed late comes back in time: the earliest failure there can be.
        machine.hold_grace_periods(held=True)
    tree = machine.tree
    memcg = tree.make("g")
    played = {key: run[key] for key in ("limit_file", "limit_text", "cap")}
    played["limit_write"] = OK
    try:
        tree.write("g", run["limit_file"], run["limit_text"])
    except OSError as error:
        played["limit_write"] = errno.errorcode.get(error.errno or 0, "")
    machine.spawn("w", "g")
    played["usage_before"] = memcg.kmem.usage
    made, result = machine.do("w", workload, run["cap"])
    usage = memcg.kmem.usage
    played |= {
        "objects": made,
        "errno": result,
        "usage_at_failure": usage,
        "max_usage": memcg.kmem.max_usage,
        "failcnt": memcg.kmem.failcnt,
        "memory_usage": memcg.memory.usage,
        "memory_max_usage": memcg.memory.max_usage,
        "memory_failcnt": memcg.memory.failcnt,
        "oom_kills": memcg.oom_kills,
        "per_object": round((usage - played["usage_before"]) / max(1, made), 1),
        "tasks": len(memcg.tasks),
    }
    if machine.ties - {result}:
        played["ties"] = sorted(machine.ties)
    if result not in _NO_MORE:
        played["next_100"] = _attempt_more(machine, workload)
        played["failcnt_after_next_100"] = memcg.kmem.failcnt
    played |= _let_go(machine, memcg)
    return played


def _attempt_more(machine: Machine, workload: str) -> dict[str, int]:
    """Try another hundred times after the first failure; count how each ended."""
    ended = Counter({OK: 0})
    for _ in range(100):
        ended[machine.do("w", workload, 1)[1]] += 1
    return dict(ended)


def _let_go(machine: Machine, memcg: Memcg) -> dict[str, int]:
    """Kill the worker, drop caches, unmount; say what remains charged each time."""
    machine.kill("w")
    remains = {"usage_after_exit": memcg.kmem.usage}
    machine.drop_caches()
    remains["usage_after_drop_caches"] = memcg.kmem.usage
    machine.unmount()
    return remains | {"usage_after_umount": memcg.kmem.usage}


def _play_cost(trace: Trace, costs: CostTable, cost: dict[str, Any]) -> dict[str, Any]:
    machine = Machine(trace.profile, costs)
    memcg = machine.tree.make("g")
    machine.spawn("w", "g")
    n1, n2 = cost["n1"], cost["n2"]
    played: dict[str, Any] = {"n1": n1, "n2": n2, "usage0": 0, "memory0": 0}
    for number, count in ((1, n1), (2, max(0, n2 - n1))):
        _, played[f"result{number}"] = machine.do("w", trace.workload or "", count)
        machine.clock.settle()
        played[f"usage{number}"] = memcg.kmem.usage
        played[f"memory{number}"] = memcg.memory.usage
    for name, prefix in (("bytes_per_object", "usage"), ("memory_bytes_per_object", "memory")):
        grown = played[f"{prefix}2"] - played[f"{prefix}1"]
        played[name] = round(grown / max(1, n2 - n1), 1)
    return played | _let_go(machine, memcg)


def cliff_differences(trace: Trace, played: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """List (where, field, recorded, emulated) for all that does not agree."""
    errnos = _recorded_errnos(trace.data)
    differences = []
    for key in run_lists(trace.data):
        for number, run in enumerate(trace.data[key]):
            ours = played[key][number]
            where = f"{key} {number + 1} ({run['limit_file']} {run['limit_text']})"
            differences += [
                (where, field, theirs, ours.get(field))
                for field, theirs in _run_differences(trace, run, ours, errnos)
            ]
    for number, cost in enumerate(trace.data["cost"]):
        ours = played["cost"][number]
        differences += [
            (f"cost {number + 1}", field, cost[field], ours[field])
            for field in ("usage1", "usage2")
            if not figure_matches(cost[field], ours[field])
        ]
    return differences


def _recorded_errnos(data: dict[str, Any]) -> set[str]:
    """Collect every failure the file saw: which allocation fails first is decided by a tie."""
    seen: set[str] = set()
    for key in ("runs", "repeats"):
        for run in data.get(key, []):
            seen |= {run["errno"], *run.get("next_100", {})}
    return seen - {OK}


def _run_differences(
    trace: Trace, run: dict[str, Any], ours: dict[str, Any], errnos: set[str]
) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    if run.get("limit_write", OK) != ours["limit_write"]:
        found.append(("limit_write", run["limit_write"]))
    if trace.made.churns:
        return found + _churn_differences(run, ours, errnos)
    closed = trace.made.kind.startswith("file-")
    share = _SHARE_CLOSED if closed else _SHARE
    races = trace.made.tasks == "zombie"
    apart = abs(run["objects"] - ours["objects"])
    if not (races and apart <= _SLACK_ZOMBIES) and not count_matches(
        run["objects"], ours["objects"], share
    ):
        found.append(("objects", run["objects"]))
    may_be = {run["errno"]} if run["errno"] == OK else {run["errno"], *errnos}
    if run["limit_file"] != _KMEM_LIMIT:
        may_be = {run["errno"]}
    if ours["errno"] not in may_be and run["errno"] not in ours.get("ties", ()):
        found.append(("errno", " or ".join(sorted(may_be))))
    found += [
        (field, run[field])
        for field in ("failcnt", "memory_failcnt")
        if field in run and bool(run[field]) != bool(ours[field])
    ]
    return found


def _churn_differences(
    run: dict[str, Any], ours: dict[str, Any], errnos: set[str]
) -> list[tuple[str, Any]]:
    """Compare a churn: it may fail now and then, but never before its backlog fills the limit."""
    found: list[tuple[str, Any]] = []
    if run["objects"] < ours["objects"] * (1 - _SHARE_CLOSED):
        found.append(("objects", run["objects"]))
    if run["errno"] == OK:
        if run["objects"] != run["cap"]:
            found.append(("cap", run["cap"]))
    elif ours["errno"] not in errnos | {run["errno"]} and run["errno"] not in ours.get("ties", ()):
        found.append(("errno", run["errno"]))
    failed = _LIMIT_FAILCNT.get(run["limit_file"])
    if failed is not None and failed in run and bool(run[failed]) != (run["errno"] != OK):
        found.append((failed, run[failed]))
    return found
