"""Draw an experiment's curves and matrix as PNG, for places that show no pages.

By matplotlib, which needs no browser; plotly's own export starts one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.report.libraries import require
from kmem_harness.report.parts import colour_of, short_size
from kmem_harness.report.sweeps import MEASURES, is_size, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["draw"]

_INK, _LINE, _MUTED = "#1d2329", "#dde1e5", "#5d6873"
_DPI = 150


def draw(results: Mapping[str, Any], path: str) -> bool:
    """Draw what *results* found to *path*; false if there is nothing to draw.

    Raises: UnsupportedHostError without matplotlib, OSError.
    """
    figure_class = require("matplotlib.figure").Figure
    findings = results["findings"]
    if findings["matrix"]:
        figure = _matrix(figure_class, findings["matrix"])
    elif findings["curves"]:
        figure = _curves(figure_class, results)
    else:
        return False
    figure.savefig(path, format="png", dpi=_DPI, facecolor="white")
    return True


def _curves(figure_class: Any, results: Mapping[str, Any]) -> Any:
    curves = results["findings"]["curves"]
    keys = [
        key
        for key in MEASURES
        if any(point[key] is not None for curve in curves for point in curve["points"])
    ]
    figure = figure_class(figsize=(8, 2.3 * len(keys) + 0.6), layout="constrained")
    names = [name_of(results, curve["params"]) or curve["along"] for curve in curves]
    along = curves[0]["along"]
    for number, key in enumerate(keys, 1):
        axes = figure.add_subplot(len(keys), 1, number)
        for name, curve in zip(names, curves, strict=True):
            points = [point for point in curve["points"] if point[key] is not None]
            values = [point["value"] for point in points]
            heights = [point[key] for point in points]
            colour = colour_of(name, names)
            axes.plot(values, heights, "o-", color=colour, markersize=3.5, label=name)
            at = [place for place, value in enumerate(values) if value == curve["knee"]]
            axes.plot(
                [values[place] for place in at],
                [heights[place] for place in at],
                "D",
                markersize=9,
                fillstyle="none",
                color=_INK,
            )
        _dress(axes, MEASURES[key][0])
        if is_size(results, along):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: short_size(round(value)))
        if key == "pass_rate":
            axes.set_ylim(-0.08, 1.12)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        else:
            highest = max(line.get_ydata().max() for line in axes.lines if len(line.get_ydata()))
            axes.set_ylim(-0.08 * (highest or 1), 1.15 * (highest or 1))
    axes.set_xlabel(f"{along} (a diamond marks the smallest from which on all pass)", color=_MUTED)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return figure


def _matrix(figure_class: Any, matrix: Mapping[str, Any]) -> Any:
    boxes, bound = matrix["boxes"], matrix["bound"]
    size = 1.1 * len(boxes) + 1.8
    figure = figure_class(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    colours = require("matplotlib.colors").LinearSegmentedColormap.from_list(
        "heat", ["#58b894", "#e3c55b", "#e06a5f"]
    )
    ratios = [[float("nan") if one is None else one for one in row] for row in matrix["ratios"]]
    axes.imshow(ratios, cmap=colours, vmin=1, vmax=max(2 * bound - 1, 1.5))
    for row, (given, passed) in enumerate(zip(matrix["ratios"], matrix["passed"], strict=True)):
        for column, (ratio, good) in enumerate(zip(given, passed, strict=True)):
            text = (
                "unknown"
                if ratio is None
                else f"{ratio:.2f}x{'' if good else chr(10) + 'too much'}"
            )
            axes.text(column, row, text, ha="center", va="center", color=_INK, fontsize=9)
    axes.set_xticks(range(len(boxes)), boxes, rotation=30, ha="right")
    axes.set_yticks(range(len(boxes)), boxes)
    axes.set_xlabel("aggressor", color=_MUTED)
    axes.set_ylabel("victim", color=_MUTED)
    axes.set_title(f"p99 beside, times p99 alone (at most {bound:g}x)", fontsize=10, color=_INK)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", color=_INK)
    axes.grid(visible=True, color=_LINE, linewidth=0.8)
    axes.tick_params(colors=_MUTED, labelsize=8)
    for side in axes.spines.values():
        side.set_color(_LINE)
