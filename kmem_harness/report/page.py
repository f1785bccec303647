"""Render a page: one HTML file that holds its style, its script, plotly.js and its data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.report.files import write_whole
from kmem_harness.report.libraries import require
from kmem_harness.report.parts import Figure

if TYPE_CHECKING:
    from kmem_harness.report.parts import Section

__all__ = ["Page", "write_page"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """A title, sections, and the data they were made from, which goes into the page as JSON."""

    title: str
    sections: list[Section]
    data: dict[str, Any] = field(default_factory=dict)

    def render(self) -> str:
        """Give the HTML. Raises: UnsupportedHostError without jinja2 or plotly."""
        jinja2, plotly = require("jinja2"), require("plotly.offline")
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        figures = [
            {"name": part.name, "traces": part.traces, "layout": part.layout}
            for section in self.sections
            for part in section.parts
            if isinstance(part, Figure)
        ]
        return str(
            environment.get_template("page.html.j2").render(
                title=self.title,
                sections=self.sections,
                style=_read("page.css"),
                script=_read("page.js"),
                plotly=plotly.get_plotlyjs() if figures else "",
                figures=_embedded(figures),
                data=_embedded(self.data),
            )
        )


def write_page(path: str, page: Page) -> None:
    """Write *page* to *path*, whole or not at all. Raises: OSError, UnsupportedHostError."""
    write_whole(path, page.render())


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """Write JSON that no HTML parser takes for the end of its element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
