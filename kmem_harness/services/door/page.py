"""Lay out the report of a run of units as a page: the units, and what each activation used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.core.sizes import format_size
from kmem_harness.report.page import Page, write_page
from kmem_harness.report.parts import Cell, Section, Table
from kmem_harness.report.runs import run_sections

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["write_services_page"]

_COLUMNS = (
    "unit",
    "state",
    "result",
    "starts",
    "kmem limit",
    "at most",
    "refused",
    "by",
    "hint",
    "description",
)


def write_services_page(path: str, report: Mapping[str, Any]) -> None:
    """Write *report*, in the shape of :meth:`Manager.report`, as one page to *path*.

    Raises: OSError; UnsupportedHostError without the libraries of the extra ``report``.
    """
    memcgs = [unit["memcg"] for unit in report["units"] if unit["memcg"]["path"]]
    units = Section("Units", [Table("", list(_COLUMNS), _rows(report))], "units")
    runs = run_sections(list(_activations(report)), memcgs)
    names = [unit["unit"] for unit in report["units"] if unit["unit"].endswith(".service")]
    write_page(path, Page(f"services: {', '.join(names)}", [units, *runs], data=dict(report)))


def _rows(report: Mapping[str, Any]) -> list[list[Cell]]:
    rows = []
    for unit in report["units"]:
        kmem, refused = unit["memcg"]["kmem"], unit["refusals"]["total"]
        has_memcg, limit = bool(unit["memcg"]["path"]), kmem["limit"]
        share = kmem["max_usage"] / limit if has_memcg and limit > 0 else None
        rows.append(
            [
                Cell(unit["unit"], mono=True),
                Cell(unit["state"]),
                Cell(unit["result"]),
                Cell(str(unit["starts"] or ""), number=True),
                Cell(format_size(limit) if has_memcg and limit >= 0 else "", number=True),
                Cell(format_size(kmem["max_usage"]) if has_memcg else "", number=True, share=share),
                Cell(str(refused) if unit["unit"].endswith(".service") else "", number=True),
                Cell(", ".join(f"{key} {n}" for key, n in unit["refusals"]["by_setting"].items())),
                Cell(unit["hint"]),
                Cell(unit["description"]),
            ]
        )
    return rows


def _activations(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the report of each box by its unit's name: the program in it is ours, and says nothing."""
    for unit in report["units"]:
        for number, run in enumerate(unit["activations"], 1):
            ended = run["main_ended"] or {"code": run["exit_code"], "signal": run["signal"]}
            again = ["start", str(number)] if len(unit["activations"]) > 1 else []
            command = [unit["unit"], *again]
            yield {**run, "command": command, "exit_code": ended["code"], "signal": ended["signal"]}
