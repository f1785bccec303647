"""Lay out the HTML report of a test run: the tests, then usage over time in each container."""

from __future__ import annotations

import json
from typing import Any

from kmem_harness.core.sizes import format_size
from kmem_harness.report.page import Page, write_page
from kmem_harness.report.parts import Cell, Facts, Section, Table
from kmem_harness.report.runs import run_sections
from kmem_harness.report.series import is_limit

__all__ = ["write_page_of"]


def write_page_of(path: str, content: dict[str, Any]) -> None:
    """Write the page of a JSON report's *content*. Raises: OSError, UnsupportedHostError."""
    rows = [_told_apart(row) for row in (*content["tests"], *content["memcgs"])]
    reports = [report for row in rows for report in row["containers"]]
    memcgs = [row["memcg"] for row in rows if row["memcg"] is not None]
    sections = [
        Section("Tests", [_facts(content, rows), _table(rows)], "tests"),
        *(run_sections(reports, memcgs) if reports else []),
    ]
    write_page(path, Page("kmem-harness: kernel memory of a test run", sections, data=content))


def _told_apart(row: dict[str, Any]) -> dict[str, Any]:
    """Give the memcgs of modules and sessions the name of their worker: each worker has its own."""
    if row["worker"] is None or row["scope"] == "function" or row["memcg"] is None:
        return row
    path, worker = row["memcg"]["path"], row["worker"]
    text = json.dumps({**row, "nodeid": f"{row['nodeid']} ({worker})"})
    return dict(
        json.loads(text.replace(json.dumps(path)[1:-1], f"{json.dumps(path)[1:-1]}@{worker}"))
    )


def _facts(content: dict[str, Any], rows: list[dict[str, Any]]) -> Facts:
    failed = sum(row.get("failure") is not None for row in rows)
    return Facts(
        [
            ("tests with containers", str(len(content["tests"]))),
            ("failed with kmem", str(failed)),
            (
                "refused calls",
                str(sum(row["refusals"]["total"] for row in rows if "shared" not in row)),
            ),
            ("kernel", content["kernel"]),
        ]
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    cells = []
    for row in rows:
        kmem = (row["memcg"] or {}).get("kmem", {"limit": -1, "max_usage": 0, "failcnt": 0})
        limited = is_limit(kmem["limit"])
        by_kind = ", ".join(f"{count} {kind}" for kind, count in row["refusals"]["by_kind"].items())
        outcome = row.get("outcome") or row["scope"]
        cells.append(
            [
                Cell(row["nodeid"], mono=True),
                Cell(f"{outcome} ({row['failure']})" if row.get("failure") else outcome),
                Cell(format_size(kmem["limit"]) if limited else "none", number=True),
                Cell(
                    "not counted" if row["mode"] == "off" else format_size(kmem["max_usage"]),
                    number=True,
                    share=min(kmem["max_usage"] / kmem["limit"], 1.0)
                    if limited and row["mode"] != "off"
                    else None,
                ),
                Cell(str(kmem["failcnt"]), number=True),
                Cell(by_kind or "0", number=True),
                Cell(str(row["nr_containers"]), number=True),
            ]
        )
    columns = ["test", "outcome", "kmem limit", "at most", "failcnt", "refused", "containers"]
    return Table("", columns, cells, "" if cells else "no test had a container")
