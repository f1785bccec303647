"""Show a run of services in a terminal: a table that keeps itself up to date, lines above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kmem_harness.core.sizes import UNLIMITED, format_size
from kmem_harness.services.door.run import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.services.door.journal import Entry
    from kmem_harness.services.door.limit import Found

__all__ = ["LiveView", "PlainView", "QuietView", "show_hints", "show_limit", "table_of"]

_STYLES = {
    **dict.fromkeys(("activating", "reloading", "deactivating"), "yellow"),
    "active": "green",
    "inactive": "dim",
    "failed": "bold red",
}
_BAR_CELLS = 8
_NEARLY = 0.85


def table_of(units: list[dict[str, Any]], *, live: bool = True) -> Table:
    """Lay out units as :meth:`Manager.describe` gives them, each below its slice.

    Without *live* there is nothing of the moment in it: for when all is over.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("unit", no_wrap=True)
    table.add_column("state")
    if live:
        table.add_column("tasks", justify="right")
        table.add_column("kmem", no_wrap=True)
    table.add_column("kmem at most", no_wrap=True)
    table.add_column("refused", justify="right")
    table.add_column("starts", justify="right")
    for depth, unit in _as_tree(units):
        refused = unit["refusals"]["total"] or unit["refusals"]["by_setting"]
        kmem = unit["memcg"]["kmem"]
        is_service = unit["unit"].endswith(".service")
        cells: list[Text | str] = [
            Text("  " * depth + unit["unit"]),
            Text(_state(unit), style=_STYLES[unit["active"]]),
        ]
        if live:
            bar = _bar(kmem) if unit["memcg"]["path"] else ""
            cells += [str(unit["tasks"]) if is_service else "", bar]
        cells += [
            _peak(kmem) if unit["memcg"]["path"] else "",
            Text(_refused(unit), style="bold red" if refused else "dim") if is_service else "",
            str(unit["starts"]) if is_service else "",
        ]
        table.add_row(*cells)
    return table


def _as_tree(units: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Put every unit below its slice, those without one that is shown at the top."""
    names = {unit["unit"] for unit in units}
    found: list[tuple[int, dict[str, Any]]] = []

    def add(above: str, depth: int) -> None:
        for unit in units:
            parent = "" if unit["unit"].endswith(".target") else unit["slice"]
            if (parent if parent in names else "") == above:
                found.append((depth, unit))
                if unit["unit"].endswith(".slice"):
                    add(unit["unit"], depth + 1)

    add("", 0)
    return found


def _state(unit: dict[str, Any]) -> str:
    if unit["result"] != "success":
        return f"{unit['state']} ({unit['result']})"
    told = unit["status"] if unit["active"] == "active" else ""
    return f"{unit['state']}: {told}" if told else str(unit["state"])


def _refused(unit: dict[str, Any]) -> str:
    """Count the refusals, and say which limit made them where it is not one alone of its own."""
    by = unit["refusals"]["by_setting"]
    total = max(unit["refusals"]["total"], sum(by.values()))
    own = f"X-KmemMax= of {unit['unit']}"
    if not by or list(by) == [own]:
        return str(total)
    return ", ".join(f"{count} by {key}" for key, count in by.items())


def _bar(counter: dict[str, int]) -> Text:
    usage, limit = counter["usage"], counter["limit"]
    text = Text(f"{format_size(usage):>7} ")
    if limit == UNLIMITED:
        return text
    share = min(usage / max(limit, 1), 1.0)
    filled = round(share * _BAR_CELLS)
    style = "red" if share > _NEARLY else "green"
    text.append("━" * filled, style=style)
    text.append("━" * (_BAR_CELLS - filled), style="bright_black")
    return text


def _peak(counter: dict[str, int]) -> str:
    peak = format_size(counter["max_usage"])
    return peak if counter["limit"] == UNLIMITED else f"{peak} of {format_size(counter['limit'])}"


def show_hints(console: Console, units: list[dict[str, Any]]) -> None:
    """Say of units that did not serve what there is to know."""
    for unit in units:
        if unit["hint"]:
            console.print(f"{unit['unit']}: {unit['hint']}", markup=False, soft_wrap=True)


def show_limit(found: Found) -> str:
    """Say what ``services limit`` found, with what to paste."""
    unit, at = found.question.unit, found.at
    size = f"{format_size(found.limit)} of kernel memory ({found.limit} bytes)"
    lines = [f"{unit} serves under {size}, {at.refused or 'nothing'} refused; {found.tries} tries"]
    if found.below is None:
        lines.append("the lowest limit there is passes")
    else:
        lines.append(f"under {format_size(found.below.limit or 0)} it does not: {found.below.how}")
        lines += [f"  refused: {line}" for line in found.below.refusals]
    lines.append(f"at its peak of {format_size(at.peak)} there were")
    lines += [
        f"  {live} {kind} ({format_size(nbytes)})" for kind, (live, nbytes) in at.at_peak.items()
    ]
    name = unit.rpartition("/")[2]
    lines += ["", f"# {name}.d/kmem.conf", found.drop_in()]
    lines += [
        "# the same as an experiment: kmem-harness experiment run FILE.toml",
        found.experiment(),
    ]
    return "\n".join(lines).rstrip()


class PlainView(View):
    """Lines, one after the other: for logs, and where there is no terminal."""

    def __init__(self, console: Console) -> None:
        """Write to *console*."""
        self.console = console

    def show(self, entry: Entry) -> None:
        """Write one line."""
        self.console.print(line_of(entry), highlight=False, soft_wrap=True)

    def close(self, units: list[dict[str, Any]]) -> None:
        """Show how it ended."""
        self.console.print(table_of(units, live=False))
        show_hints(self.console, units)


class QuietView(PlainView):
    """Nothing but the table at the end."""

    def show(self, entry: Entry) -> None:
        """Leave a line out."""


class LiveView(PlainView):
    """A table at the bottom of the terminal; lines go above it."""

    def start(self, units: Callable[[], list[dict[str, Any]]]) -> None:
        """Keep the table of *units* in view."""
        self._units = units
        self._live = Live(
            console=self.console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start()

    def refresh(self) -> None:
        """Draw the table as things stand."""
        self._live.update(Group(Text(), table_of(self._units())), refresh=True)

    def close(self, units: list[dict[str, Any]]) -> None:
        """Take the table off, and show how it ended."""
        if hasattr(self, "_live"):
            self._live.stop()
        super().close(units)


def line_of(entry: Entry) -> str:
    """Say who said what; what is about a unit rather than by it is set apart."""
    text = escape(entry.text)
    name = f"[cyan]{escape(entry.unit)}[/]"
    return f"{name}: [bold]{text}[/]" if entry.own else f"{name}  {text}"
