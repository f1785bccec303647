"""The ``top`` command: look at a running harness again and again, until it or the reader ends."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live

from kmem_harness.controller.owner.client import ControllerDiedError, connect_running, running
from kmem_harness.top.rates import SORTS, Row, Watch, ordered
from kmem_harness.top.show import drawn, key_within, keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.controller.owner.client import Connection

__all__ = ["top"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per interval.")
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Look every S seconds.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N looks.")
@click.option(
    "--sort",
    "by",
    type=click.Choice([name for name, _ in SORTS.values()]),
    default="path",
    show_default=True,
    help="What comes first.",
)
@click.option("--kinds", "with_kinds", is_flag=True, help="Show the live objects of each kind.")
def top(interval: float, count: int | None, by: str, *, as_json: bool, with_kinds: bool) -> None:
    """Watch all memcgs of a running harness of yours: usage, limits, refusals per second.

    Sort and leave with the keys shown; where there is no terminal, or one that cannot move its cursor
    (TERM=dumb), one table follows the other. Ends when the harness does.
    """
    with closing(connect_running()) as connection:
        kernel = connection.request("hello")["kernel"]
        if as_json:
            _print_json(connection, kernel, interval, count, by)
        elif sys.stdout.isatty() and not Console().is_dumb_terminal:
            _show(connection, kernel, interval, count, by, with_kinds=with_kinds)
        else:
            _print_tables(connection, kernel, interval, count, by, with_kinds=with_kinds)


def _looks(
    connection: Connection, interval: float, count: int | None
) -> Iterator[tuple[float, list[Row]]]:
    """Give the time and the rows of each look, evenly spaced, until the harness ends."""
    watch = Watch()
    due = time.monotonic()
    number = 0
    while count is None or number < count:
        time.sleep(max(due - time.monotonic(), 0))
        # After a pause, such as Ctrl-Z, go on from here and make up for nothing.
        due = max(due, time.monotonic() - interval) + interval
        try:
            survey = connection.survey()
        except ControllerDiedError:
            return
        number += 1
        yield time.time(), watch.look(survey, time.monotonic())


def _print_json(
    connection: Connection, kernel: str, interval: float, count: int | None, by: str
) -> None:
    for now, rows in _looks(connection, interval, count):
        line: dict[str, Any] = {
            "time": round(now, 6),
            "kernel": kernel,
            "memcgs": [row.as_dict() for row in ordered(rows, by)],
        }
        if not _say(json.dumps(line, separators=(",", ":"))):
            return


def _print_tables(
    connection: Connection,
    kernel: str,
    interval: float,
    count: int | None,
    by: str,
    *,
    with_kinds: bool,
) -> None:
    console = Console()
    for _, rows in _looks(connection, interval, count):
        with console.capture() as capture:
            table = drawn(
                rows,
                title=f"kernel {kernel}",
                by=by,
                with_kinds=with_kinds,
                width=console.width,
                height=len(rows) * 50,
            )
            table.caption = None
            console.print(table)
        if not _say(capture.get()):
            return


def _say(text: str) -> bool:
    """Print; false if nobody reads any more, as after ``| head``."""
    try:
        click.echo(text)
    except BrokenPipeError:
        # Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _show(
    connection: Connection,
    kernel: str,
    interval: float,
    count: int | None,
    by: str,
    *,
    with_kinds: bool,
) -> None:
    console = Console()
    watch = Watch()
    others = len(running()) - 1
    title = f"kmem-harness top  kernel {kernel}"
    if others > 0:
        title += f"  ({others} more running; this is the newest)"
    rows: list[Row] = []
    due, looks = time.monotonic(), 0
    with keys() as readable, Live(console=console, screen=True, auto_refresh=False) as live:
        while count is None or looks < count:
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                try:
                    rows = watch.look(connection.survey(), time.monotonic())
                except ControllerDiedError:
                    break
                looks += 1
            width, height = console.size
            table = drawn(
                rows, title=title, by=by, with_kinds=with_kinds, width=width, height=height
            )
            live.update(table, refresh=True)
            key = key_within(max(due - time.monotonic(), 0), readable=readable)
            if key == "q":
                return
            if key == "k":
                with_kinds = not with_kinds
            elif key in SORTS:
                by = SORTS[key][0]
    if count is None:
        console.print("the harness has ended")
