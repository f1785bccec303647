"""Find what containers hold at a test's end that they did not hold at its beginning.

A container that the test itself started held nothing then. While it runs, its program needs some
objects merely to be there, which are no leak; beyond those it shall hold nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tenacity

from kmem_harness.core.sizes import format_size
from kmem_harness.pytest_plugin.cards import name_of
from kmem_harness.pytest_plugin.verdicts import KmemFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.harness import Box
    from kmem_harness.pytest_plugin.records import Record

    #: Objects by kind, for each container.
    Held = dict[Box, dict[str, int]]

__all__ = ["check_leaks", "held_by"]

#: What any running program holds, be it idle.
_OF_A_PROGRAM = frozenset({"file", "vma", "page-table", "descriptor-table"})
#: What is on its way out, such as a process that was just killed, has this long to be gone, and a
#: program that computes this long to come to rest.
_SETTLE_SECONDS = 0.5
_LOOK_SECONDS = 0.01


def held_by(records: list[Record]) -> Held:
    """Count what containers hold now, after a census.

    What a call made that may be over is counted, be it long gone: no leak may hide behind that.
    """
    _looking(any)(lambda: [box.under_way for record in records for box in record.boxes])
    return {
        box: {kind: row["live"] for kind, row in box.report()["kinds"].items() if row["live"]}
        for record in records
        for box in record.boxes
    }


def check_leaks(records: list[Record], before: Held, allowed: int) -> None:
    """Fail the test if more than *allowed* bytes are held that were not held *before*.

    Raises: KmemFailed; also for a container whose charges nobody counts.
    """
    look = _looking(lambda found: found[1] > allowed)
    lines, total = look(_leaks, records, before)
    if total <= allowed:
        return
    limit = f", {format_size(allowed)} allowed" if allowed else ""
    head = f"limit_kmem_leaks: {format_size(total)} of kernel memory still held at the test's end"
    if any(box not in before and box.status is None for one in records for box in one.boxes):
        lines.append(
            "  (what a container holds when the test begins is no leak: start it in a fixture)"
        )
    raise KmemFailed("leak", "\n".join([f"{head}{limit}", *lines]))


def _held_by(report: dict[str, Any], kind: str, live: int) -> str:
    """Say which processes have objects of *kind* open, as far as the last look tells."""
    rows = [one for one in report["holders"] if one["kinds"].get(kind) and kind in one["fds"]]
    if not rows:
        return ""
    said = [
        f"{one['kinds'][kind]} by {one['comm']}[{one['pid']}] (fd {_numbers(one, kind)})"
        for one in rows
    ]
    rest = live - sum(one["kinds"][kind] for one in rows)
    return f": {', '.join([*said, *([f'{rest} elsewhere or in flight'] if rest > 0 else [])])}"


def _numbers(holder: dict[str, Any], kind: str) -> str:
    shown = ", ".join(map(str, holder["fds"][kind]))
    return f"{shown}, ..." if holder["kinds"][kind] > len(holder["fds"][kind]) else shown


def _looking(busy: Callable[[Any], bool]) -> tenacity.Retrying:
    """Make what looks again while what it sees is *busy*, and gives what it saw last."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_result(busy),
        stop=tenacity.stop_after_delay(_SETTLE_SECONDS),
        wait=tenacity.wait_fixed(_LOOK_SECONDS),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )


def _leaks(records: list[Record], before: Held) -> tuple[list[str], int]:
    lines, total = [], 0
    for record in records:
        for box in record.boxes:
            report = box.report()
            if report["mode"] == "off" and box.status is None:
                raise KmemFailed(
                    "leak",
                    f"limit_kmem_leaks: {name_of(report)}: runs without a limit, so nobody counts "
                    'what it holds; start it with a limit, or with mode="observe"',
                )
            found = []
            for kind, row in report["kinds"].items():
                if box not in before and box.status is None and kind in _OF_A_PROGRAM:
                    continue
                more = row["live"] - before.get(box, {}).get(kind, 0)
                if more > 0 and row["bytes_each"]:
                    total += more * row["bytes_each"]
                    size = format_size(more * row["bytes_each"])
                    found.append(f"{more} {kind} ({size}){_held_by(report, kind, row['live'])}")
            if found:
                lines.append(f"  {name_of(report)}: {', '.join(found)}")
    return lines, total
