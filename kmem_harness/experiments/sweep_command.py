"""Carry out ``kmem-harness sweep``: fail every charge in turn, or find the smallest limit."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import DEFAULT_PROFILE
from kmem_harness.core.sizes import format_size, parse_size
from kmem_harness.experiments.smallest_limit import smallest_limit
from kmem_harness.experiments.sweep_runs import BoxRuns
from kmem_harness.experiments.sweep_show import as_dict, show
from kmem_harness.faults.state import SweepState
from kmem_harness.faults.sweep import MODES, Plan, Sweep
from kmem_harness.harness import Harness

if TYPE_CHECKING:
    from kmem_harness.faults import sweep as engine
    from kmem_harness.faults.sweep import Result

__all__ = ["sweep"]

_FOUND = 1


def _exits(_: click.Context, __: click.Parameter, value: str | None) -> frozenset[int] | None:
    if value is None:
        return None
    try:
        codes = frozenset(int(word) for word in value.split(","))
    except ValueError:
        codes = frozenset({-1})
    if not all(0 <= code <= 255 for code in codes):  # noqa: PLR2004 - an exit code is a byte
        raise click.BadParameter(f"{value!r} is no list of exit codes; write 0,1")
    return codes


@click.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    epilog="Sizes: 4096, 8k, 8M, 8MiB, 1G. Exits with 0, 1 if anything was found, 125 if the "
    "harness itself failed.",
)
@click.option("--each-charge", is_flag=True, help="Fail charge 1, 2, ... in turn.")
@click.option(
    "--kmem-limit",
    metavar="LOW..HIGH|SIZE",
    help="Find the smallest limit COMMAND passes under; with --each-charge, one limit to run under.",
)
@click.option("--calls", metavar="SET", default="charge", show_default=True, help="What to fail.")
@click.option("--error", metavar="ERRNO", default="ENOMEM", show_default=True)
@click.option(
    "--mode",
    type=click.Choice([*MODES, "both"]),
    default="both",
    show_default=True,
    help="Fail the k-th alone, or it and all after it.",
)
@click.option(
    "--max", "maximum", type=click.IntRange(1), metavar="N", help="Charges to fail at most."
)
@click.option(
    "--skip",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Let the first N charges by.",
)
@click.option(
    "--from",
    "start",
    metavar="MOMENT",
    help="Count charges from the first call of this name, or that names this PATH (a glob); after-exec, "
    "when the program executes another one; mark, when it executes `env true kmem-start`, or opens "
    "a file kmem-start, be it there or not.",
)
@click.option(
    "--ignore",
    metavar="GLOB",
    multiple=True,
    help="Files below TMPDIR that are not compared; may be given more than once.",
)
@click.option(
    "--exits",
    callback=_exits,
    metavar="CODES",
    help="Exit codes that are fine, such as 0,1 (default: all below 128, and 129 and 254, with which "
    "bash gives up; with LOW..HIGH, 0).",
)
@click.option("-n", "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="A run that takes longer hangs (default: 2 s and 10 times the first run).",
)
@click.option("--state", metavar="FILE", help="Keep finished runs there, and go on from there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--kernel", metavar="PROFILE", default=DEFAULT_PROFILE, show_default=True)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def sweep(command: tuple[str, ...], *, each_charge: bool, **options: Any) -> NoReturn:
    """Run COMMAND many times, to see what it does when kernel memory runs out.

    Each run has no input and a TMPDIR of its own. Runs must not get in each other's way.

    \b
    kmem-harness sweep --each-charge -n 2 -- ./my-server --selftest
    kmem-harness sweep --kmem-limit 1M..64M -- ./my-server --selftest
    """  # noqa: D301 - click's own mark for a line to keep
    limit = options["kmem_limit"]
    if not each_charge and ".." not in (limit or ""):
        raise click.UsageError("Give --each-charge, or a range: --kmem-limit LOW..HIGH.")
    if each_charge and ".." in (limit or ""):
        raise click.UsageError(
            f"--each-charge runs under one limit, not {limit}; leave out either."
        )
    if each_charge:
        sys.exit(_each_charge(command, options))
    sys.exit(_smallest(command, options))


def _each_charge(command: tuple[str, ...], options: dict[str, Any]) -> int:
    plan = Plan(
        calls=options["calls"],
        error=options["error"],
        modes=MODES if options["mode"] == "both" else (options["mode"],),
        max=options["maximum"],
        exits=options["exits"],
        jobs=options["jobs"],
        ignore=options["ignore"],
        skip=options["skip"],
        start=options["start"],
    )
    state = None
    if options["state"] is not None:
        state = SweepState(options["state"], _description(command, plan, options))
    try:
        with Harness(options["kernel"]) as harness:
            runs = BoxRuns(harness, command, options["timeout"], kmem_limit=options["kmem_limit"])
            result = _swept(plan, runs, state)
    finally:
        if state is not None:
            state.close()
    if options["as_json"]:
        click.echo(json.dumps(as_dict(result), indent=2))
    else:
        show(result, command, Console(highlight=False, soft_wrap=True))
    return _FOUND if result.groups else 0


def _swept(plan: Plan, runs: BoxRuns, state: SweepState | None) -> Result:
    """Sweep, with progress on standard error where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return Sweep(plan, runs, state=state).go()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[findings]} findings"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("counting", total=None, findings=0)

        def moved(at: engine.Progress) -> None:
            progress.update(
                task,
                description=f"failing {at.mode}",
                completed=at.done,
                total=max(at.total, at.done),
                findings=at.findings,
            )

        return Sweep(plan, runs, state=state, progress=moved).go()


def _description(command: tuple[str, ...], plan: Plan, options: dict[str, Any]) -> dict[str, Any]:
    """Say what a state file is of: everything that changes what a run comes to."""
    kept = asdict(plan)
    # What is judged, and how far and how fast, can be changed from one run to the next.
    for name in ("exits", "ignore", "jobs", "max", "modes", "skip"):
        del kept[name]
    return {
        "command": list(command),
        **kept,
        "kernel": options["kernel"],
        "kmem_limit": options["kmem_limit"],
    }


def _smallest(command: tuple[str, ...], options: dict[str, Any]) -> int:
    low, high = _range(options["kmem_limit"])
    exits = options["exits"] or frozenset({0})
    console = Console(highlight=False, soft_wrap=True)
    tried = Console(stderr=True, highlight=False, soft_wrap=True)
    with Harness(options["kernel"]) as harness:
        found = smallest_limit(
            harness, command, low, high, exits=exits, timeout=options["timeout"], tell=tried.print
        )
    if options["as_json"]:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return 0
    console.print(
        f"smallest limit that passes: {found.limit} ({format_size(found.limit)}), "
        f"{found.ended}; {found.runs} runs"
    )
    if found.below is None:
        console.print(f"it passes at {format_size(low)} already: try a lower LOW")
    else:
        console.print(f"at {found.below} bytes: {found.below_ended}")
        for line in found.refused:
            console.print(f"  refused: {line}")
    return 0


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("..")
    sizes = parse_size(low), parse_size(high)
    if not 0 < sizes[0] < sizes[1]:
        raise ConfigurationError(
            f"--kmem-limit {text}: a range goes up, from a size to a larger one, such as 1M..64M"
        )
    return sizes
