"""Decide whether an emulated figure is the recorded one.

Exact figures must match exactly. A figure marked approximate may be off by 10 % or 8 pages,
whichever is more; a count by 10 % or one, and never between none and some. memory.failcnt counts
rounds of reclaim until a victim is gone, which is the scheduler's doing (the recordings have 36 to
89 for one event): its order of magnitude must be right, and so for a fault that is retried for
ever. Where the two recordings of a step differ, either of them will do; and where several parts of
an object may be the one that meets the limit, the errno of any of them.
"""

from __future__ import annotations

from typing import Any

from kmem_harness.core.limit_text import PAGE

__all__ = ["count_matches", "figure_matches", "step_differences"]

_SHARE = 0.10
_SHARE_CHURN = 0.20
_PAGES = 8
_COMPARED = ("result", "failed_call", "value", "made", "signal", "entries", "mode", "size", "nlink")
_BYTES = "_in_bytes"
_ROUNDS_OF_RECLAIM = frozenset({"memory.failcnt", "memory.memsw.failcnt"})
_MAGNITUDE = 3
# A fault that is retried for ever fails 30,000 to 130,000 times a second.
_RETRIED_FAULTS = 10_000
_MAGNITUDE_FAULTS = 10


def figure_matches(recorded: int, emulated: int, share: float = _SHARE) -> bool:
    """Compare bytes that follow from object sizes and caches."""
    return abs(recorded - emulated) <= max(recorded * share, _PAGES * PAGE)


def count_matches(recorded: int, emulated: int, share: float = _SHARE) -> bool:
    """Compare how often something happened."""
    if not recorded or not emulated:
        return recorded == emulated
    return abs(recorded - emulated) <= max(recorded * share, 1)


def step_differences(step: dict[str, Any], emulated: dict[str, Any]) -> list[str]:
    """List the fields in which an emulated step differs from both recordings of it."""
    again = {**step, **step.get("second_recording", {})}
    return [
        field
        for field in _COMPARED
        if not any(_same(field, recorded, emulated, step) for recorded in (step, again))
    ]


def _same(
    field: str, recorded: dict[str, Any], emulated: dict[str, Any], step: dict[str, Any]
) -> bool:
    ours = emulated.get(field)
    if field not in recorded:
        # Nothing was recorded to compare with, except that no call failed.
        return field != "failed_call" or ours is None or recorded["result"] == "ok"
    theirs = recorded[field]
    if field == "value" and step["op"] == "write":
        return True
    if field == "made" and recorded["result"] != "ok" and isinstance(ours, int):
        if step.get("workload", "").startswith("churn-"):
            # It may fail now and then, but never before its backlog fills the limit.
            return bool(theirs >= ours * (1 - _SHARE_CHURN))
        # How far one gets before a refusal follows from object sizes.
        return count_matches(theirs, ours)
    if field == "value" and isinstance(ours, str):
        return _same_value(step, theirs, ours)
    # Which part of an object is the one refused may have been decided by a tie.
    tied = field == "result" and theirs in emulated.get("ties", ())
    return tied or bool(theirs == ours)


def _same_value(step: dict[str, Any], theirs: str, ours: str) -> bool:
    name = step["file"].rpartition("/")[2]
    if name in {"cgroup.procs", "tasks"}:
        # Process numbers are never the same twice; how many there are is.
        return len(theirs.split()) == len(ours.split())
    if not step.get("approximate") or not (theirs.isdigit() and ours.isdigit()):
        return theirs == ours
    recorded, emulated = int(theirs), int(ours)
    if name.endswith(_BYTES):
        return figure_matches(recorded, emulated)
    least, most = sorted((recorded, emulated))
    if name in _ROUNDS_OF_RECLAIM and least:
        return most <= _MAGNITUDE * least
    if name.endswith("failcnt") and least > _RETRIED_FAULTS:
        return most <= _MAGNITUDE_FAULTS * least
    return count_matches(recorded, emulated)
