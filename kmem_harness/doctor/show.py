"""Print a diagnosis for people: a table, what boxes miss, remedies, and the verdict last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from kmem_harness.doctor import Diagnosis

__all__ = ["print_diagnosis"]


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print it to standard output."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in diagnosis.findings:
        mark = "[green]yes" if finding.ok else "[red]NO" if finding.required else "[yellow]no"
        detail = f"{finding.detail} [dim](tested by {finding.tested})[/dim]"
        table.add_row(mark, f"[bold]{finding.facility}", detail)
    console.print(table)
    for finding in diagnosis.findings:
        if not finding.ok:
            need = (
                "needed" if finding.required else "for exactness" if finding.exact else "optional"
            )
            console.print(f"[bold]{finding.facility}[/bold] ({need}): {finding.remedy}")
    for what, taken in diagnosis.takes_away().items():
        console.print(f"[bold]{what}[/bold], which boxes get here:")
        for clause in taken:
            console.print(f"  - {clause}")
    color = ("green", "yellow", "red")[diagnosis.verdict]
    console.print(f"[bold {color}]verdict: {diagnosis.sentence}")
