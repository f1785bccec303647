"""Draw the rows of ``top`` for a terminal, and hear single keys. Knows no controller."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kmem_harness.core.sizes import format_size
from kmem_harness.top.rates import SORTS, Row, ordered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

__all__ = ["drawn", "key_within", "keys"]

#: Widths from which a column is worth its room.
_FOR_BAR, _FOR_PEAK, _FOR_CALLS, _FOR_KINDS = 60, 76, 92, 120
#: Lines that are not rows: title, headings, keys.
_AROUND = 4
_HOT = 0.9


def drawn(
    rows: Sequence[Row], *, title: str, by: str, with_kinds: bool, width: int, height: int
) -> Table:
    """Draw *rows* into *width* columns and *height* lines; what has no room is counted."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption="  ".join(f"[b]{key}[/b] {name}" for key, (name, _) in SORTS.items())
        + "  [b]k[/b] kinds  [b]q[/b] quit",
        caption_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
        expand=True,
    )
    table.add_column("memcg", ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
    heads = ["usage", "limit", *(["at most"] * (width >= _FOR_PEAK)), "refused", "/s"]
    for head in [*heads, *(["boxes", "calls/s"] * (width >= _FOR_CALLS))]:
        table.add_column(head, justify="right", no_wrap=True)
    if width >= _FOR_BAR:
        table.add_column("of limit", width=12)
    if width >= _FOR_KINDS and not with_kinds:
        table.add_column("live", ratio=1, no_wrap=True, overflow="ellipsis")
    room = max(height - _AROUND, 1)
    for row in ordered(rows, by):
        lines = 1 + (len(row.kinds) if with_kinds else 0)
        if lines > room:
            table.caption = f"... and more than fit in {height} lines\n{table.caption}"
            break
        room -= lines
        table.add_row(*_cells(row, width=width, with_kinds=with_kinds))
        if with_kinds:
            for kind, sums in sorted(row.kinds.items(), key=lambda one: -one[1]["nbytes"]):
                text = Text(f"    {sums['live']} {kind}", style="dim")
                empty = [""] * (1 + (width >= _FOR_PEAK))
                table.add_row(text, format_size(sums["nbytes"]), *empty, str(sums["refused"]))
    return table


def _cells(row: Row, *, width: int, with_kinds: bool) -> list[RenderableType]:
    refusing = "bold red" if row.refused_per_second else ""
    cells: list[RenderableType] = [
        Text(row.path),
        format_size(row.kmem["usage"]),
        format_size(row.limit) if row.limit else "-",
    ]
    if width >= _FOR_PEAK:
        cells.append(format_size(row.kmem["max_usage"]))
    cells += [str(row.refused), Text(f"{row.refused_per_second:.1f}", style=refusing)]
    if width >= _FOR_CALLS:
        cells += [str(row.boxes), f"{row.calls_per_second:.0f}"]
    if width >= _FOR_BAR:
        share = row.share
        style = "red" if share is not None and share >= _HOT else "cyan"
        bar = ProgressBar(1.0, share or 0, width=12, complete_style=style, finished_style=style)
        cells.append("" if share is None else bar)
    if width >= _FOR_KINDS and not with_kinds:
        kinds = sorted(row.kinds.items(), key=lambda one: -one[1]["nbytes"])
        cells.append(", ".join(f"{sums['live']} {kind}" for kind, sums in kinds if sums["live"]))
    return cells


@contextmanager
def keys() -> Iterator[bool]:
    """Have the terminal hand over each key as it is pressed; false if there is none to read."""
    if not sys.stdin.isatty():
        yield False
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def key_within(seconds: float, *, readable: bool) -> str:
    """Wait for a key, at most *seconds*; give it, or nothing."""
    if not readable:
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    # An ended input is always ready; without a key to come, wait as without a terminal.
    key = sys.stdin.read(1) if ready else ""
    if ready and not key:
        time.sleep(seconds)
    return key
