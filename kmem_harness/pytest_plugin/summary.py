"""Show at the end of a run who used most kernel memory, and what was written where."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kmem_harness.core.sizes import format_size
from kmem_harness.pytest_plugin.settings import SETTINGS

if TYPE_CHECKING:
    import pytest

    from kmem_harness.pytest_plugin.collecting import Collector

__all__ = ["show"]

_TRACKED = 1 << 62  # the largest limit of a kernel is none


def show(reporter: pytest.TerminalReporter, collector: Collector) -> None:
    """Write the section "kmem". With -q only what failed or was written, with -v every user."""
    settings = reporter.config.stash[SETTINGS]
    verbosity = reporter.verbosity
    rows = _rows(collector.run.memcgs)
    shown = len(rows) if verbosity > 0 and settings.top else settings.top
    if verbosity < 0:
        shown = 0
    lines = [*_table(rows[:shown])]
    if 0 < shown < len(rows):
        lines.append(f"... and {len(rows) - shown} more: --kmem-top or -v shows them")
    if collector.run.failures and verbosity >= 0:
        lines += _failures(collector)
    kept = sum(one["kept"] is not None for one in collector.run.memcgs)
    if kept:
        lines.append(f"kept: what {kept} of them left, in {settings.keep_dir}")
    lines += collector.written
    if lines or collector.problems:
        reporter.section("kmem")
        for line in lines:
            reporter.write_line(line)
        for problem in collector.problems:
            reporter.write_line(problem, red=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from kmem_harness.pytest_plugin.annotations import annotate

        for line in annotate(collector.run, reporter.config):
            reporter.write_line(line)


def _rows(memcgs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = [
        one
        for one in memcgs
        if one["memcg"] is not None and one["mode"] != "off" and "shared" not in one
    ]
    return sorted(known, key=lambda one: (-one["memcg"]["kmem"]["max_usage"], one["name"]))


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    cells = [("at most", "limit", "refused", "")]
    for one in rows:
        kmem, refusals = one["memcg"]["kmem"], one["refusals"]
        limit = "none" if not 0 <= kmem["limit"] < _TRACKED else format_size(kmem["limit"])
        by_kind = ", ".join(f"{count} {kind}" for kind, count in refusals["by_kind"].items())
        cells.append((format_size(kmem["max_usage"]), limit, by_kind or "-", one["name"]))
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return [
        f"{row[0]:>{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in cells
    ]


def _failures(collector: Collector) -> list[str]:
    count: dict[str, int] = {}
    for failure in collector.run.failures.values():
        count[failure["why"]] = count.get(failure["why"], 0) + 1
    return ["failed with kmem: " + ", ".join(f"{nr} {why}" for why, nr in sorted(count.items()))]
