"""Show figures: a table, a picture, and what was promised. Knows figures; measures nothing."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from tests.benchmarks.loads import LOADS
from tests.benchmarks.measure import BASE
from tests.benchmarks.targets import BOUNDS, TARGETS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.benchmarks.measure import Figures

__all__ = ["bounds", "picture", "profiles", "table", "targets"]

_COLOURS = {"limit": "#2a6fb0", "no limit": "#7fb2dd", "observe": "#7fb2dd", "inject": "#7fb2dd"}
_FLOOR, _PEER = "#bbbbbb", "#d98a3d"
_DRAWN = ("call", "fork", "exec", "thread", "pipe", "script")


def _size(seconds: float) -> str:
    return f"{seconds * 1e6:10.1f} us" if seconds < 0.01 else f"{seconds * 1e3:10.1f} ms"


def table(figures: Figures) -> str:
    """Draw every figure: median, spread and the ratio to native."""
    lines = []
    for load, ways in figures.seconds.items():
        lines.append(f"{load}: {LOADS[load].what}")
        for way in sorted(ways, key=lambda name: figures.median(load, name) or 0):
            ratio = figures.ratio(load, way)
            median = figures.median(load, way) or 0.0
            beside = f"{ratio:7.2f} x {BASE}" if ratio is not None else ""
            lines.append(f"  {way:18}{_size(median)} +-{figures.spread(load, way):4.0%}  {beside}")
    return "\n".join(lines)


def targets(figures: Figures) -> str:
    """Draw the rows promised: target, reached, and whether that is it."""
    lines = ["target   reached"]
    for target in TARGETS:
        reached = target.reached(figures)
        held = None if reached is None else reached <= target.at_most
        lines += _row(f"{target.at_most:6.2f}", reached, target.text, target.why, held=held)
    return "\n".join(lines)


def profiles(figures: Figures) -> str:
    """Draw what one supervised call costs in each load: in all, the kernel's part, and ours.

    *more* is what a load takes beyond native, *floor* what it takes with an empty C loop under the
    same filter; *user* and *system* are the controller's processor time. By supervised call.
    """
    lines = ["one supervised call, us  calls of one    more   floor    user  system"]
    for load, (profile, done) in figures.profiles.items():
        calls = profile.calls / done
        native = figures.median(load, BASE)
        if calls < 1 or native is None:
            continue
        beyond = [
            "       -" if took is None else f"{(took - native) / calls * 1e6:8.1f}"
            for took in (figures.median(load, way) for way in ("limit", "C loop, our filter"))
        ]
        own = (
            f"{seconds / profile.calls * 1e6:8.1f}" for seconds in (profile.user, profile.system)
        )
        lines.append(f"  {load:22} {calls:12.1f}{''.join([*beyond, *own])}")
    return "\n".join(lines)


def bounds(reached: Mapping[str, float]) -> str:
    """Draw the bounds that were measured, by their names, in the same way."""
    lines = ["  target   reached"]
    for name, figure in reached.items():
        bound = BOUNDS[name]
        text = f"{bound.text}, {bound.unit}"
        lines += _row(f"{bound.at_most:8g}", figure, text, bound.why, held=bound.holds(figure))
    return "\n".join(lines)


def _row(
    target: str, reached: float | None, text: str, why: str, *, held: bool | None
) -> list[str]:
    shown = "not measured" if reached is None else f"{reached:6.2f}"
    mark = "" if held is None else "held  " if held else "MISSED"
    lines = [f"{target} {shown:>9} {mark:7} {text}"]
    if held is False and why:
        indent = " " * 25
        lines.append(textwrap.fill(why, 110, initial_indent=indent, subsequent_indent=indent))
    return lines


def picture(figures: Figures, path: Path) -> None:
    """Draw the ratios to native as bars, a panel for each load."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "kmem-harness"
    from matplotlib import pyplot as plt

    drawn = [load for load in _DRAWN if load in figures.seconds]
    rows = -(-len(drawn) // 2)
    canvas, panels = plt.subplots(rows, 2, figsize=(9, 2.2 * rows), squeeze=False)
    for panel, load in zip(panels.flat, drawn, strict=False):
        ways = {way: figures.ratio(load, way) or 0 for way in figures.seconds[load]}
        names = sorted(ways, key=lambda name: -ways[name])
        colours = [
            _COLOURS.get(name, _FLOOR if name == BASE or "loop" in name else _PEER)
            for name in names
        ]
        bars = panel.barh(names, [ways[name] for name in names], color=colours)
        panel.bar_label(bars, [f"{ways[name]:.2f}" for name in names], padding=2, fontsize=7)
        panel.set_title(LOADS[load].what, fontsize=8, loc="left")
        panel.set_xlim(0, max(ways.values()) * 1.15)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels.flat[len(drawn) :]:
        panel.set_visible(False)
    canvas.suptitle("time of one, as a multiple of native", fontsize=9)
    canvas.tight_layout()
    canvas.savefig(path, format="svg", metadata={"Date": None})
    plt.close(canvas)
