"""Show a scenario: what misbehaves and its neighbour, first without a kmem limit, then with one."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
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
from kmem_harness.procfs.census import DescendantCensus, NamespaceCensus, TaskCensus
from kmem_harness.procfs.steps import result_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kmem_harness.demos.scenarios import Scenario
    from kmem_harness.harness import Box

__all__ = ["show"]

_HERE = os.path.dirname(__file__)
_PYTHON = (sys.executable, "-I", "-S")
_CALM_SECONDS = 1.5
_LOOK_SECONDS = 0.01
#: How much longer a culprit may go on that has not met its limit yet, on a slow machine.
_PATIENCE_SECONDS = 20.0
#: How long a program may take to clear away what it made.
_CLEARING_SECONDS = 30.0


@dataclass
class _Phase:
    """What one run showed. Latencies in microseconds."""

    title: str
    bound: str
    alive: int = 0
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

    It is 1, too, where the culprit never came near its limit, which shows nothing.

    *kmem_limit* is what it is given, by default what the scenario says;
    *picture* names an SVG file that shows what the terminal does in the end.

    Raises: ConfigurationError, UnsupportedHostError before anything starts.
    """
    console = Console(record=picture is not None, width=80 if picture else None)
    scenario = SCENARIOS[name]
    limit = parse_size(kmem_limit or scenario.kmem_limit)
    calm = _Phase(f"no {scenario.culprit}", "")
    by = " (pids)" if scenario.is_counted_outside else ""
    free = _Phase("no kmem limit", f"{scenario.hard_bound} {scenario.makes}{by}")
    held = _Phase(f"kmem limit {format_size(limit)}", f"{format_size(limit)} of kmem")
    with Harness(kernel) as harness, _place(harness, runtime) as (where, folder):
        console.print(f"[bold]{scenario.headline}[/bold]  {scenario.about}", highlight=False)
        with Live(console=console, transient=True) as live:
            run = functools.partial(_run_phase, harness, where, folder, live)
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
    console.print("left afterwards: " + (", ".join(left) if left else "nothing"))
    contained, verdict = _verdict(scenario.culprit, held.refusals, held.max_usage, limit, left)
    console.print(verdict)
    if picture is not None:
        drawing = console.export_svg(title=f"kmem-harness demo {name}")
        with open(picture, "w", encoding="utf-8") as file:
            # Self-contained: whoever looks at it asks nobody else for a font.
            file.write(re.sub(r"@font-face \{.*?\}\n", "", drawing, flags=re.DOTALL))
    return 0 if contained else 1


def _verdict(
    culprit: str, refusals: int, max_usage: int, limit: int, left: Sequence[str]
) -> tuple[bool, str]:
    """Say whether it was contained, in the console's markup, and no more than was shown."""
    if max_usage > limit or left:
        return False, "[bold red]not contained[/bold red]: see the table above."
    if refusals:
        return True, f"[bold green]contained:[/bold green] the {culprit} ran into its own limit."
    return False, (
        f"[bold yellow]nothing was shown:[/bold yellow] the {culprit} never met its limit, with "
        f"{format_size(max_usage)} of {format_size(limit)} at most; give it more time (--seconds) or a "
        "lower limit (--kmem-limit)."
    )


@contextmanager
def _place(harness: Harness, runtime: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Say where the demo's programs run: what ``Harness.run`` is told beside the command.

    And a folder, there, for what they make; nothing is left in it.
    """
    if runtime == "local":
        # In memory, if that can be had: what is shown is the kernel's, not a disk's.
        base = next((one for one in ("/dev/shm",) if os.access(one, os.W_OK)), None)  # noqa: S108 - a fresh directory in it
        folder = tempfile.mkdtemp(prefix="kmem-demo-", dir=base)
        try:
            yield {}, folder
        finally:
            _remove_deep(folder)
        return
    from kmem_harness.demos.in_docker import FOLDER, demo_image  # noqa: PLC0415 - heavy: only if used

    with demo_image(harness.runtime(runtime).client) as where:  # type: ignore[attr-defined]
        yield where, FOLDER


def _remove_deep(folder: str) -> None:
    """Remove directories in directories, however deep: what a program that was killed may leave."""
    inner = os.path.join(folder, "x")
    while os.path.exists(inner):
        with suppress(FileNotFoundError):  # this is the last
            os.rename(os.path.join(inner, "x"), os.path.join(folder, "y"))
        os.rmdir(inner)
        with suppress(FileNotFoundError):
            os.rename(os.path.join(folder, "y"), inner)
    os.rmdir(folder)


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
    folder: str,
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
            with _start(harness, where, folder, scenario, seconds, kmem_limit) as culprit:
                if scenario.is_counted_outside:
                    _watch(culprit, phase, live, seconds, scenario.refused)
                else:
                    _hear_out(culprit, phase, live, seconds, scenario)
                culprit.kill()
            _settle(culprit, phase)
        output, _ = neighbour.communicate()
        neighbour.wait()
    phase.neighbour = json.loads(output)


def _start(
    harness: Harness,
    where: dict[str, Any],
    folder: str,
    scenario: Scenario,
    seconds: float,
    kmem_limit: int | None,
) -> Box:
    program = os.path.join(_HERE, scenario.program)
    most = scenario.hard_bound
    if not scenario.is_counted_outside:
        words = [*_PYTHON, program, f"{seconds + _PATIENCE_SECONDS:.1f}", str(most), folder]
        return harness.run(words, kmem_limit=kmem_limit, stdout=subprocess.PIPE, **where)
    command = [program, f"{seconds + _PATIENCE_SECONDS:.1f}"]
    try:
        return harness.run([*_PYTHON, *command], kmem_limit=kmem_limit, pids_max=most, **where)
    except UnsupportedHostError:
        if where:
            raise
        # There is no pids cgroup for us to use.
        held_back = [os.path.join(_HERE, "hold_back.py"), str(most), *command]
        return harness.run([*_PYTHON, *held_back], kmem_limit=kmem_limit)


def _hear_out(culprit: Box, phase: _Phase, live: Live, seconds: float, scenario: Scenario) -> None:
    """Let it go on for as long as it may, and then say itself what it has made."""
    for left in _until_met(culprit, seconds):
        live.update(_line(phase, f"making {scenario.makes}", left, culprit, scenario.refused))
        time.sleep(10 * _LOOK_SECONDS)
    culprit.signal(signal.SIGTERM)
    output, _ = culprit.communicate(timeout=_CLEARING_SECONDS)
    phase.alive = int(json.loads(output)["made"])


def _watch(culprit: Box, phase: _Phase, live: Live, seconds: float, refused: str) -> None:
    """Count its tasks from outside, for as long as it may burn."""
    census = _outside_census(culprit)
    before: frozenset[str] = frozenset()
    try:
        for left in _until_met(culprit, seconds):
            with suppress(OSError):
                # What two counts in a row hold was alive at once. One alone would also hold
                # what died, and what was born, while it was counted.
                now_alive = result_of(census.processes())
                before, tasks = now_alive, len(before & now_alive)
                phase.alive = max(phase.alive, tasks)
                count = f"{tasks:5d} tasks alive, at most {phase.alive:5d}"
                live.update(_line(phase, count, left, culprit, refused))
            time.sleep(_LOOK_SECONDS)
    finally:
        census.close()


def _until_met(culprit: Box, seconds: float) -> Iterator[float]:
    """Give the time left, again and again; at its end, wait for the limit to be met."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        yield left
    while culprit.filtered and left > -_PATIENCE_SECONDS and not culprit.refusals:
        yield 0.0
        left = end - time.monotonic()


def _outside_census(culprit: Box) -> TaskCensus:
    init = culprit.running.init_pid
    if culprit.isolation == "none":
        return DescendantCensus(init, frozenset())
    return NamespaceCensus(init, frozenset({"1"}))


def _line(phase: _Phase, what: str, left_seconds: float, culprit: Box, refused: str) -> Text:
    line = f"  {phase.title}: {what}"
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
            f"{scenario.makes} alive, at most",
            [str(phase.alive) if phase.bound else "-" for phase in phases],
        ),
        (
            f"{scenario.refused} refused",
            # Without a limit nobody counts: what the hard bound refused would look like nothing.
            [str(phase.refusals) if phase.max_usage else "-" for phase in phases],
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
