"""Turn run reports into one page that can be read anywhere: no network, no server, no other file."""

from __future__ import annotations

from kmem_harness.report.libraries import require
from kmem_harness.report.page import Page, write_page
from kmem_harness.report.runs import render_html, write_html

__all__ = ["Page", "render_html", "require", "write_html", "write_page"]
