"""Turn results into pages, pictures and summaries: no network, no server, no other file."""

from __future__ import annotations

from kmem_harness.report.libraries import require
from kmem_harness.report.page import Page, write_page
from kmem_harness.report.runs import render_html, usage_figures, write_html
from kmem_harness.report.sweeps import experiment_sections

__all__ = [
    "Page",
    "experiment_sections",
    "render_html",
    "require",
    "usage_figures",
    "write_html",
    "write_page",
]
