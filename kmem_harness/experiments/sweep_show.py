"""Write a sweep's result for a person, ten lines for a thousand runs, or as JSON."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from kmem_harness.faults.outcome import WHATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from kmem_harness.faults.common import Common
    from kmem_harness.faults.outcome import Site
    from kmem_harness.faults.sweep import Group, Result

__all__ = ["as_dict", "show"]

_SHOWN_SITES = 12
_SHOWN_RUNS = 6


def show(result: Result, command: Sequence[str], console: Console) -> None:
    """Print what was swept, and each finding with the line that shows it again."""
    swept = ", ".join(f"{count} {mode}" for mode, count in result.swept.items())
    resumed = f", {result.resumed} of them from before" if result.resumed else ""
    console.print(
        f"{result.normal.charges} charges without a fault; failed in turn: {swept} "
        f"({result.runs + result.resumed} runs{resumed})"
    )
    if result.cut_short:
        console.print(
            f"mind: broken off at --max in mode {', '.join(result.cut_short)}", style="yellow"
        )
    for line in _not_compared(result.common):
        console.print(f"mind: {line}", style="yellow", markup=False)
    same = sum(result.unaffected.values())
    if same:
        console.print(
            f"in {same} runs the failed call had no effect: they ended as without a fault"
        )
    _show_sites(result, console)
    if not result.groups:
        console.print("nothing found", style="green")
        return
    for group in sorted(result.groups, key=lambda one: list(WHATS).index(one.what)):
        _show_group(group, command, console)


def as_dict(result: Result) -> dict[str, Any]:
    """Give the result JSON-ready."""
    return {
        "charges": result.normal.charges,
        "swept": result.swept,
        "cut_short": result.cut_short,
        "runs": result.runs,
        "resumed": result.resumed,
        "compared": _compared(result.common),
        "not_compared": result.common.set_aside(),
        "sites": [
            {
                **asdict(site),
                "runs": count,
                "found": _found_at(result, site),
                "without_effect": result.unaffected.get(site, 0),
            }
            for site, count in result.sites.items()
        ],
        "findings": [
            {
                "what": group.what,
                **asdict(group.site),
                "detail": group.detail,
                "said": group.said,
                "runs": [{"mode": mode, "charge": number} for mode, number in group.runs],
                "rule": group.rule,
                "reproduced": group.reproduced,
                "marker": group.marker,
            }
            for group in result.groups
        ],
    }


def _found_at(result: Result, site: Site) -> dict[str, int]:
    """Count the runs of each finding at a site: most of its runs may have been fine."""
    return {group.what: len(group.runs) for group in result.groups if group.site == site}


def _compared(common: Common) -> list[str]:
    looked = {"files": common.files is not None, "output": common.output}
    return [what for what, was in looked.items() if was]


def _not_compared(common: Common) -> list[str]:
    """Say what runs without a fault do not have in common."""
    lines = []
    if not common.output:
        lines.append("runs without a fault print different things, so output is not compared")
    if common.files is None:
        lines.append("the files in TMPDIR could not be read, so none is compared")
    if common.changing:
        names = ", ".join(common.changing)
        lines.append(f"not compared, for runs without a fault differ there: {names}")
    if common.own_names:
        names = ", ".join("TMPDIR" if one == "." else one for one in common.own_names)
        lines.append(f"new names are not compared where each run makes its own: in {names}")
    return lines


def _show_sites(result: Result, console: Console) -> None:
    found = {site: _found_at(result, site) for site in {group.site for group in result.groups}}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("runs", "failed at", "found"):
        table.add_column(heading, justify="right" if heading == "runs" else "left")
    # What has findings comes first, so that none of it is left out.
    sites = sorted(result.sites.items(), key=lambda one: (one[0] not in found, -one[1]))
    shown = max(_SHOWN_SITES, len(found))
    for site, count in sites[:shown]:
        whats = (f"{what} in {runs}" for what, runs in sorted(found.get(site, {}).items()))
        table.add_row(str(count), str(site), ", ".join(whats) or "-")
    more = sites[shown:]
    if more:
        table.add_row(str(sum(count for _, count in more)), f"at {len(more)} more sites", "-")
    console.print(table)


def _show_group(group: Group, command: Sequence[str], console: Console) -> None:
    console.print()
    console.print(f"{group.what}: {group.site}", style="bold red", markup=False)
    console.print(f"  {WHATS[group.what]}: {group.detail}", markup=False)
    if group.said:
        console.print(f"  its last words: {group.said}", markup=False)
    numbers = [f"{number}{'' if mode == 'once' else '+'}" for mode, number in group.runs]
    more = f", {len(numbers) - _SHOWN_RUNS} more" if len(numbers) > _SHOWN_RUNS else ""
    console.print(f"  in {len(numbers)} runs, charges {', '.join(numbers[:_SHOWN_RUNS])}{more}")
    if not group.reproduced:
        console.print("  it did not show again when tried once more", style="yellow")
    console.print(f"  {group.marker}", markup=False)
    again = shlex.join(["kmem-harness", "run", "--inject", group.rule, "--", *command])
    console.print(f"  {again}", markup=False)
