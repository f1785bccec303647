"""Say what the runs of an experiment show: the smallest limit, curves with their knee, the matrix.

Pure: from the JSON of results to JSON. Pages, pictures and summaries repeat these figures.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.sizes import UNLIMITED, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["findings_of", "size_of"]


def findings_of(shape: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give the findings.

    Shape: ``{"curves": [...], "matrix": None or {...}}``. A curve is of one combination of the
    other parameters: ``{"params", "along", "points", "knee", "lowest_passes"}``; a point is ``{"value", "runs",
    "passed", "pass_rate", "refused", "max_usage", "p99"}``, where ``refused`` is the mean of all
    boxes' refusals, ``max_usage`` the highest, and ``p99`` the median over runs of the slowest
    box's, or ``None``. The knee is the smallest value from which on all pass. Units: bytes, seconds.
    """
    if shape["matrix"]:
        return {"curves": [], "matrix": _matrix(shape, runs)}
    along = _axis(shape, runs)
    if along is None:
        return {"curves": [], "matrix": None}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in runs:
        others = {name: value for name, value in one["params"].items() if name != along}
        groups.setdefault(json.dumps(others), []).append(one)
    return {
        "curves": [
            _curve(json.loads(params), along, group, shape["pass_rate"])
            for params, group in groups.items()
        ],
        "matrix": None,
    }


def _axis(shape: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str | None:
    """Choose what curves are drawn along: what is bisected, else the last list of numbers."""
    if shape["vary"]["bisection"]:
        return str(shape["vary"]["bisection"]["name"])
    numeric = [
        name
        for name, values in shape["vary"]["values"].items()
        if len(values) > 1 and all(size_of(value) is not None for value in values)
    ]
    return numeric[-1] if numeric and runs else None


def size_of(value: Any) -> float | None:
    """Read a parameter's value as a number, sizes in bytes; ``None`` if it is neither."""
    if isinstance(value, (int, float)):
        return value
    try:
        nbytes = parse_size(value)
    except ConfigurationError:
        return None
    return None if nbytes == UNLIMITED else nbytes


def _curve(
    params: dict[str, Any], along: str, runs: Sequence[Mapping[str, Any]], pass_rate: float
) -> dict[str, Any]:
    by_value: dict[float, list[Mapping[str, Any]]] = {}
    for one in runs:
        by_value.setdefault(size_of(one["params"][along]) or 0, []).append(one)
    points = [_point(value, by_value[value]) for value in sorted(by_value)]
    knee = None
    for point in reversed(points):
        if point["pass_rate"] < pass_rate or not point["passed"]:
            break
        knee = point["value"]
    return {
        "params": params,
        "along": along,
        "points": points,
        "knee": knee,
        # Then it is no knee: a smaller value may pass as well.
        "lowest_passes": knee is not None and knee == points[0]["value"],
    }


def _point(value: float, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    passed = sum(one["passed"] for one in runs)
    slowest = sorted(
        max(row["p99"] for rows in one["latency"].values() for row in rows.values())
        for one in runs
        if one["latency"]
    )
    return {
        "value": value,
        "runs": len(runs),
        "passed": passed,
        "pass_rate": passed / len(runs),
        "refused": sum(box["refused"] for one in runs for box in one["boxes"].values()) / len(runs),
        "max_usage": max(
            (box["kmem"]["max_usage"] for one in runs for box in one["boxes"].values()), default=0
        ),
        "p99": slowest[len(slowest) // 2] if slowest else None,
    }


def _matrix(shape: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give for each pair the median over repeats of p99 beside over p99 alone, ``None`` if unknown.

    Shape: ``{"boxes", "bound", "ratios", "passed"}``; rows are victims, columns aggressors.
    """
    boxes = list(shape["matrix"]["boxes"])
    ratios: list[list[float | None]] = []
    passed: list[list[bool | None]] = []
    for victim in boxes:
        row: list[float | None] = []
        good: list[bool | None] = []
        for aggressor in boxes:
            pair = {"victim": victim, "aggressor": aggressor}
            here = [one for one in runs if one["pair"] == pair]
            found = sorted(filter(None, (_ratio(one["latency"].get(victim, {})) for one in here)))
            row.append(round(found[len(found) // 2], 4) if found else None)
            good.append(all(one["passed"] for one in here) if here else None)
        ratios.append(row)
        passed.append(good)
    return {
        "boxes": boxes,
        "bound": shape["matrix"]["p99"],
        "ratios": ratios,
        "passed": passed,
    }


def _ratio(rows: Mapping[str, Mapping[str, float]]) -> float | None:
    beside = [row["p99"] for when, row in rows.items() if when != "alone"]
    if "alone" not in rows or not beside or not rows["alone"]["p99"]:
        return None
    return beside[0] / rows["alone"]["p99"]
