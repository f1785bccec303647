"""The parts a page is put together from: facts, tables, figures. Data alone; the template draws it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

__all__ = ["Cell", "Facts", "Figure", "Section", "Table", "byte_axis", "colour_of", "short_size"]

#: Told apart in a light and in a dark room, and by most who see few colours (Okabe and Ito's,
#: brought to a middle lightness).
_COLOURS = (
    *("#3b8fd6", "#e08a1e", "#2ea27c", "#c869a8", "#8a7be0", "#c25b3f", "#5fb3c4", "#b5a13a"),
    *("#7f8ea3", "#d46a7e", "#6fae4f", "#a06fc4"),
)
_TICKS = 5


@dataclass(frozen=True)
class Facts:
    """Figures to be seen first: (what, how much)."""

    template: ClassVar = "facts"
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, how far to indent it, and the part of its width to fill, if any."""

    text: str
    indent: int = 0
    share: float | None = None
    number: bool = False
    mono: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under headings."""

    template: ClassVar = "table"
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """One plotly figure: traces and a layout without colours of its own, which the page's are.

    A trace may have ``meta: {"ink": NAME}``: its line and markers are drawn in that colour of the
    page ("text", "muted", "bad", "good"), in a light and in a dark room.
    """

    template: ClassVar = "figure"
    name: str
    title: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    note: str = ""

    @property
    def legend(self) -> list[dict[str, Any]]:
        """Name each trace once, for the page to draw beside the figure and not over it."""
        return [
            {
                "index": index,
                "name": trace["name"],
                "colour": trace.get("line", trace.get("marker", {})).get("color", ""),
                "ink": trace.get("meta", {}).get("ink", ""),
            }
            for index, trace in enumerate(self.traces)
            if trace.get("name")
        ]


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: list[Facts | Table | Figure] = field(default_factory=list)
    name: str = ""


def colour_of(name: str, among: list[str]) -> str:
    """Give a name the colour of its place."""
    return _COLOURS[among.index(name) % len(_COLOURS)]


def byte_axis(highest: int) -> dict[str, Any]:
    """Lay out an axis from 0 to a little over *highest* bytes, with ticks at round binary sizes."""
    step = 1
    while step * _TICKS < highest:
        step *= 2
    values = list(range(0, max(highest, 1) + step, step))
    return {
        "range": [0, max(highest, 1) * 1.08],
        "tickvals": values,
        "ticktext": [short_size(value) for value in values],
        "fixedrange": True,
        "automargin": True,
    }


def short_size(nbytes: int) -> str:
    """Write a round size shortly: ``"512K"``, ``"1.5M"``."""
    size = float(nbytes)
    for unit in ("", "K", "M", "G"):
        if size < 1024:  # noqa: PLR2004 - the step between binary units
            return f"{size:g}{unit}"
        size /= 1024
    return f"{size:g}T"
