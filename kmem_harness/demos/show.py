"""Show a scenario: what misbehaves and its neighbour, first without a kmem limit, then with one."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kmem_harness.core.errors import UnsupportedHostError
from kmem_harness.core.sizes import format_size, parse_size
from kmem_harness.demos.scenarios import SCENARIOS
from kmem_harness.harness import Harness
from kmem_harness.interposer.census import DescendantCensus, NamespaceCensus, TaskCensus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from kmem_harness.demos.scenarios import Scenario
    from kmem_harness.harness import Box

__all__ = ["show"]

_HERE = os.path.dirname(__file__)
_PYTHON = (sys.executable, "-I", "-S")
#: The kernel's own bound in the run without a kmem limit: high enough to hurt, low enough to live.
_HARD_BOUND = 1000
_CALM_SECONDS = 1.5
_LOOK_SECONDS = 0.01


@dataclass
class _Phase:
    """What one run showed. Latencies in microseconds."""

    title: str
    bound: str
    tasks: int = 0
    refusals: int = 0
    max_usage: int = 0
    first: dict[str, Any] | None = None
    neighbour: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def show(
    name: str,
    *,
    kmem_limit: str | None,
    seconds: float,
    kernel: str,
    picture: str | None = None,
    runtime: str = "local",
) -> int:
    """Run the demo *name*; 0 if the culprit was contained and nothing is left, else 1.

    *kmem_limit* is what it is given, by default what the scenario says;
    *picture* names an SVG file that shows what the terminal does in the end.

    Raises: ConfigurationError, UnsupportedHostError before anything starts.
    """
    console = Console(record=picture is not None, width=80 if picture else None)
    scenario = SCENARIOS[name]
    limit = parse_size(kmem_limit or scenario.kmem_limit)
    console.print(f"[bold]{scenario.headline}[/bold]  {scenario.about}", highlight=False)
    calm = _Phase(f"no {scenario.culprit}", "")
    free = _Phase("no kmem limit", f"{_HARD_BOUND} tasks (pids)")
    held = _Phase(f"kmem limit {format_size(limit)}", f"{format_size(limit)} of kmem")
    with Harness(kernel) as harness, _place(harness, runtime) as where:
        with Live(console=console, transient=True) as live:
            run = functools.partial(_run_phase, harness, where, live)
            run(calm, None, seconds=min(_CALM_SECONDS, seconds), kmem_limit=None)
            run(free, scenario, seconds=seconds, kmem_limit=None)
            run(held, scenario, seconds=seconds, kmem_limit=limit)
        directory = harness.controller.directory
        left = [*free.left, *held.left, *_containers_left(harness, runtime)]
    if os.path.exists(directory):
        left.append(directory)
    _print_table(console, scenario, [calm, free, held])
    if held.first is not None:
        _print_card(console, held.first)
    contained = held.refusals > 0 and held.max_usage <= limit and not left
    console.print("left afterwards: " + (", ".join(left) if left else "nothing"))
    if contained:
        console.print(
            f"[bold green]contained:[/bold green] the {scenario.culprit} ran into its own limit."
        )
    else:
        console.print("[bold red]not contained[/bold red]: see the table above.")
    if picture is not None:
        drawing = console.export_svg(title=f"kmem-harness demo {name}")
        with open(picture, "w", encoding="utf-8") as file:
            # Self-contained: whoever looks at it asks nobody else for a font.
            file.write(re.sub(r"@font-face \{.*?\}\n", "", drawing, flags=re.DOTALL))
    return 0 if contained else 1


def _place(harness: Harness, runtime: str) -> AbstractContextManager[dict[str, Any]]:
    """Say where the demo's programs run: what ``Harness.run`` is told beside the command."""
    if runtime == "local":
        return nullcontext({})
    from kmem_harness.demos.in_docker import demo_image  # noqa: PLC0415 - heavy: only if used

    return demo_image(harness.runtime(runtime).client)  # type: ignore[attr-defined]


def _containers_left(harness: Harness, runtime: str) -> list[str]:
    if runtime == "local":
        return []
    from kmem_harness.runtimes.labels import SESSION  # noqa: PLC0415 - heavy: only if used

    session = os.path.basename(harness.controller.directory)
    found = harness.runtime(runtime).client.containers.list(  # type: ignore[attr-defined]
        all=True, filters={"label": f"{SESSION}={session}"}
    )
    return [f"container {container.name}" for container in found]


def _run_phase(
    harness: Harness,
    where: dict[str, Any],
    live: Live,
    phase: _Phase,
    scenario: Scenario | None,
    *,
    seconds: float,
    kmem_limit: int | None,
) -> None:
    neighbour = harness.run(
        [*_PYTHON, os.path.join(_HERE, "neighbour.py"), f"{seconds:.1f}"],
        stdout=subprocess.PIPE,
        **where,
    )
    with neighbour:
        if scenario is None:
            live.update(Text(f"  {phase.title} ..."))
        else:
            program = os.path.join(_HERE, scenario.program)
            with _start(harness, where, program, seconds, kmem_limit) as culprit:
                _watch(culprit, phase, live, seconds, scenario.refused)
                culprit.kill()
            _settle(culprit, phase)
        output, _ = neighbour.communicate()
        neighbour.wait()
    phase.neighbour = json.loads(output)


def _start(
    harness: Harness, where: dict[str, Any], program: str, seconds: float, kmem_limit: int | None
) -> Box:
    command = [program, f"{seconds + 5:.1f}"]
    try:
        return harness.run(
            [*_PYTHON, *command], kmem_limit=kmem_limit, pids_max=_HARD_BOUND, **where
        )
    except UnsupportedHostError:
        if where:
            raise
        # There is no pids cgroup for us to use.
        held_back = [os.path.join(_HERE, "hold_back.py"), str(_HARD_BOUND), *command]
        return harness.run([*_PYTHON, *held_back], kmem_limit=kmem_limit)


def _watch(culprit: Box, phase: _Phase, live: Live, seconds: float, refused: str) -> None:
    """Count its tasks from outside, for as long as it may burn."""
    census = _outside_census(culprit)
    before: frozenset[str] = frozenset()
    end = time.monotonic() + seconds
    try:
        while (now := time.monotonic()) < end:
            with suppress(OSError):
                # What two counts in a row hold was alive at once. One alone would also hold
                # what died, and what was born, while it was counted.
                now_alive = census.processes()
                before, tasks = now_alive, len(before & now_alive)
                phase.tasks = max(phase.tasks, tasks)
                live.update(_line(phase, tasks, end - now, culprit, refused))
            time.sleep(_LOOK_SECONDS)
    finally:
        census.close()


def _outside_census(culprit: Box) -> TaskCensus:
    init = culprit.running.init_pid
    if culprit.isolation == "none":
        return DescendantCensus(init, frozenset())
    return NamespaceCensus(init, frozenset({"1"}))


def _line(phase: _Phase, tasks: int, left_seconds: float, culprit: Box, refused: str) -> Text:
    line = f"  {phase.title}: {tasks:5d} tasks alive, at most {phase.tasks:5d}"
    if culprit.filtered:
        report = culprit.report()
        kmem = report["memcg"]["kmem"]
        line += (
            f", kmem {format_size(kmem['usage'])} of {format_size(kmem['limit'])}"
            f", {report['refusals']['total']} {refused} refused"
        )
    return Text(f"{line}   ({left_seconds:.1f} s left)")


def _settle(culprit: Box, phase: _Phase) -> None:
    report = culprit.report()
    phase.refusals = report["refusals"]["total"]
    phase.first = report["refusals"]["first"]
    phase.max_usage = report["memcg"]["kmem"]["max_usage"]
    if os.path.exists(f"/proc/{culprit.running.init_pid}"):
        phase.left.append(f"process {culprit.running.init_pid}")
    if report["memcg"]["kmem"]["usage"]:
        phase.left.append(f"{report['memcg']['kmem']['usage']} bytes charged")


def _print_table(console: Console, scenario: Scenario, phases: Sequence[_Phase]) -> None:
    table = Table()
    table.add_column("")
    for phase, style in zip(phases, ("dim", "red", "green"), strict=True):
        table.add_column(phase.title, justify="right", style=style)
    rows: list[tuple[str, list[str]]] = [
        ("bound", [phase.bound or "-" for phase in phases]),
        (
            "tasks alive, at most",
            [str(phase.tasks) if phase.bound else "-" for phase in phases],
        ),
        (
            f"{scenario.refused} refused",
            [str(phase.refusals) if phase.bound else "-" for phase in phases],
        ),
        ("neighbour: p50", [_ms(phase, "p50_us") for phase in phases]),
        ("neighbour: p99", [_ms(phase, "p99_us") for phase in phases]),
        ("neighbour: slowest", [_ms(phase, "max_us") for phase in phases]),
        (
            "neighbour: failures",
            [str(phase.neighbour.get("failures", 0)) for phase in phases],
        ),
    ]
    for heading, cells in rows:
        table.add_row(heading, *cells)
    console.print(table)


def _ms(phase: _Phase, key: str) -> str:
    return f"{phase.neighbour[key] / 1000:.1f} ms"


def _print_card(console: Console, card: dict[str, Any]) -> None:
    live = ", ".join(f"{kind} {count}" for kind, count in card["live"].items())
    console.print(
        f"first refusal: {card['syscall']} by {card['comm']}[{card['pid']}] wanted "
        f"{format_size(card['nbytes'])} for a {card['kind']} and got {card['errno']}: "
        f"{card['counter']} of {card['refused_by']} held {format_size(card['usage'])} of "
        f"{format_size(card['limit'])} (alive: {live})",
        markup=False,
        highlight=False,
    )
