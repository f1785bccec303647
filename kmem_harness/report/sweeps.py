"""Lay out the results of an experiment: curves with their knee, the matrix, every run.

All figures come from the results' ``findings`` and ``runs`` as they are; nothing is computed anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.core.sizes import format_size
from kmem_harness.report.parts import (
    Cell,
    Facts,
    Figure,
    Section,
    Table,
    colour_of,
    short_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "MEASURES",
    "experiment_sections",
    "is_size",
    "name_of",
    "runs_passed",
    "show_value",
]

#: What curves are drawn of: (key of a point, heading, how a figure is shown).
MEASURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "pass_rate": ("Runs that passed", lambda rate: f"{rate:.0%}"),
    "refused": ("Refused calls per run", lambda count: f"{count:g}"),
    "p99": ("99th percentile of the slowest box", lambda seconds: f"{seconds * 1000:.2f} ms"),
}
_TICKS = 6
#: From one time its own to twice the bound: well, tolerable, too much.
_HEAT = [[0, "#58b894"], [0.5, "#e3c55b"], [1, "#e06a5f"]]
_INK_ON_HEAT = "#14181c"


def experiment_sections(results: Mapping[str, Any]) -> list[Section]:
    """Lay out *results*, as an experiment's ``results.json`` has them."""
    findings = results["findings"]
    sections = [Section("Summary", [_summary(results)], "summary")]
    if findings["curves"]:
        figures = [figure for key in MEASURES if (figure := _curves(key, results)) is not None]
        table = _table_of_curves(results)
        sections.append(Section("Smallest values that pass", [table, *figures], "curves"))
    if findings["matrix"]:
        sections.append(Section("Who disturbs whom", [_heat_map(findings["matrix"])], "matrix"))
    sections.append(Section("All runs", [_table_of_runs(results)], "runs"))
    return sections


def runs_passed(results: Mapping[str, Any]) -> int:
    """Count the runs that passed."""
    return sum(one["passed"] for one in results["runs"])


def is_size(results: Mapping[str, Any], name: str) -> bool:
    """Say whether parameter *name* is a size: some limit is made of it."""
    shape = results["experiment"]
    limits = [box[key] for box in shape["boxes"] for key in ("kmem_limit", "memory_limit")]
    limits += [limit for row in shape["memcgs"].values() for limit in row.values()]
    return any(f"{{{name}}}" in limit for limit in limits if limit)


def show_value(results: Mapping[str, Any], name: str, value: Any) -> str:
    """Show a parameter's value."""
    if isinstance(value, (int, float)) and is_size(results, name):
        return short_size(int(value)) if int(value) % 1024 == 0 else f"{int(value)}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def name_of(results: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """Name a combination of parameters."""
    return ", ".join(f"{key}={show_value(results, key, params[key])}" for key in params)


def _summary(results: Mapping[str, Any]) -> Facts:
    runs, shape = results["runs"], results["experiment"]
    workers = {one["worker"].partition(":")[0] for one in runs}
    return Facts(
        [
            ("runs", str(len(runs))),
            ("passed", str(runs_passed(results))),
            ("kernel", str(shape["kernel"])),
            ("repeats", str(shape["repeats"])),
            ("machines", str(len(workers))),
            ("run time, added up", f"{sum(one['seconds'] for one in runs):.1f} s"),
        ]
    )


def _table_of_curves(results: Mapping[str, Any]) -> Table:
    rows = []
    for curve in results["findings"]["curves"]:
        knee, along = curve["knee"], curve["along"]
        at = next((point for point in curve["points"] if point["value"] == knee), None)
        below = [point for point in curve["points"] if knee is None or point["value"] < knee]
        nothing_below = "not tried: a smaller one may pass, too" if knee is not None else ""
        rows.append(
            [
                Cell(name_of(results, curve["params"]) or along, mono=True),
                Cell("none" if knee is None else show_value(results, along, knee), number=True),
                Cell("" if knee is None else f"{knee:g}", number=True),
                Cell(_below(results, along, below[-1]) if below else nothing_below, number=True),
                Cell(format_size(at["max_usage"]) if at else "", number=True),
                Cell(str(sum(point["runs"] for point in curve["points"])), number=True),
            ]
        )
    along = results["findings"]["curves"][0]["along"]
    columns = ["series", f"smallest {along}", "exactly", "below that", "used there", "runs"]
    return Table("", columns, rows)


def _below(results: Mapping[str, Any], along: str, point: Mapping[str, Any]) -> str:
    """Say how the next smaller value did: where a service's need varies, some runs pass there."""
    value = show_value(results, along, point["value"])
    return f"{value}, {point['passed']} of {point['runs']} passed"


def _curves(key: str, results: Mapping[str, Any]) -> Figure | None:
    heading, show = MEASURES[key]
    curves = results["findings"]["curves"]
    names = [name_of(results, curve["params"]) or curve["along"] for curve in curves]
    along = curves[0]["along"]
    traces: list[dict[str, Any]] = []
    for name, curve in zip(names, curves, strict=True):
        points = [point for point in curve["points"] if point[key] is not None]
        if not points:
            continue
        colour = colour_of(name, names)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [point["value"] for point in points],
                "y": [point[key] for point in points],
                "line": {"color": colour, "width": 2},
                "marker": {"color": colour, "size": 6},
                "text": [
                    f"{along}={show_value(results, along, point['value'])}: {show(point[key])}, "
                    f"{point['runs']} runs"
                    for point in points
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    if not traces:
        return None
    knees = [
        (point["value"], point[key], name)
        for name, curve in zip(names, curves, strict=True)
        for point in curve["points"]
        if point["value"] == curve["knee"] and point[key] is not None
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "knee: from here on all pass",
            "x": [value for value, _, _ in knees],
            "y": [height for _, height, _ in knees],
            "text": [f"{name}: {show_value(results, along, value)}" for value, _, name in knees],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"symbol": "diamond-open", "size": 15, "line": {"width": 2}},
            "meta": {"ink": "text"},
        }
    )
    highest = max(height for trace in traces for height in trace["y"])
    yaxis: dict[str, Any] = {"rangemode": "tozero", "fixedrange": True, "automargin": True}
    if key == "pass_rate":
        yaxis |= {"range": [-0.06, 1.12], "tickvals": [0, 0.25, 0.5, 0.75, 1], "tickformat": ".0%"}
    else:
        yaxis["range"] = [-0.06 * (highest or 1), 1.15 * (highest or 1)]
        yaxis["title"] = {"text": "seconds" if key == "p99" else "calls"}
    values = [value for trace in traces for value in trace["x"]]
    return Figure(
        name=f"curve-{key}",
        title=heading,
        traces=traces,
        layout={"xaxis": _axis(results, along, values), "yaxis": yaxis, "hovermode": "closest"},
    )


def _axis(results: Mapping[str, Any], along: str, values: Sequence[float]) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": along}, "automargin": True}
    low, high = min(values), max(values)
    if is_size(results, along) and low > 0:
        ticks = [1 << power for power in range(63) if low <= 1 << power <= high]
        ticks = ticks[:: -(-len(ticks) // _TICKS)] if ticks else [int(low)]
        axis |= {
            "type": "log",
            "tickvals": ticks,
            "ticktext": [short_size(tick) for tick in ticks],
        }
    return axis


def _heat_map(matrix: Mapping[str, Any]) -> Figure:
    boxes, bound = matrix["boxes"], matrix["bound"]
    texts = [
        [
            "unknown" if ratio is None else f"{ratio:.2f}x{'' if good else '<br>too much'}"
            for ratio, good in zip(ratios, passed, strict=True)
        ]
        for ratios, passed in zip(matrix["ratios"], matrix["passed"], strict=True)
    ]
    trace = {
        "type": "heatmap",
        "x": list(boxes),
        "y": list(boxes),
        "z": matrix["ratios"],
        "text": texts,
        "texttemplate": "%{text}",
        "textfont": {"color": _INK_ON_HEAT},
        "hovertemplate": "%{y} beside %{x}: %{text}<extra></extra>",
        "colorscale": _HEAT,
        "zmin": 1,
        "zmax": max(2 * bound - 1, 1.5),
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    return Figure(
        name="matrix",
        title=f"p99 of the victim beside the aggressor, times p99 alone; at most {bound:g}x",
        traces=[trace],
        layout={
            "xaxis": {"title": {"text": "aggressor"}, "type": "category", "fixedrange": True},
            "yaxis": {
                "title": {"text": "victim"},
                "type": "category",
                "autorange": "reversed",
                "fixedrange": True,
            },
        },
        note="each the median over its repeats",
    )


def _table_of_runs(results: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(name_of(results, {**one["params"], **one["pair"]}) or "the run", mono=True),
            Cell(str(one["repeat"] + 1), number=True),
            Cell("passed" if one["passed"] else "failed"),
            Cell(str(sum(box["refused"] for box in one["boxes"].values())), number=True),
            Cell(
                format_size(
                    max((box["kmem"]["max_usage"] for box in one["boxes"].values()), default=0)
                ),
                number=True,
            ),
            Cell(f"{one['seconds']:.2f}", number=True),
            Cell("; ".join(one["reasons"])),
        ]
        for one in results["runs"]
    ]
    columns = ["run", "repeat", "verdict", "refused", "at most", "seconds", "why"]
    return Table("", columns, rows, "" if rows else "no run was made")
