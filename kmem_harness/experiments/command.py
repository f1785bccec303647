"""The ``experiment`` commands. Knows options and output; the engine does the work."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from kmem_harness.core.sizes import format_size
from kmem_harness.experiments.engine import RESULTS, executor_for, results_of, run, slots_for
from kmem_harness.experiments.experiment_file import load
from kmem_harness.experiments.pages import write_all
from kmem_harness.experiments.plan import Plan
from kmem_harness.experiments.progress import Teller
from kmem_harness.experiments.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["experiment"]

_INTERRUPTED = 130


@click.group()
def experiment() -> None:
    """Find limits and bad neighbours by many runs: grids, bisections, matrices."""


@experiment.command("run")
@click.argument("file", metavar="FILE.toml")
@click.option("-o", "--output", metavar="DIR", help="Folder for results (default: NAME.results).")
@click.option(
    "--executor",
    metavar="WHERE",
    default="local",
    show_default=True,
    help="Who makes the runs: local, dask, or dask=tcp://HOST:PORT.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    help="Runs made at once on this machine (default: one for each CPU, or one if latencies count).",
)
@click.option("--quiet", is_flag=True, help="Tell nothing of the progress.")
def run_file(
    file: str, output: str | None, executor: str, jobs: int | None, *, quiet: bool
) -> None:
    """Make all runs of the experiment in FILE that the folder does not hold yet.

    Start it again after an interruption, and it goes on where it was. Exits with 1 if some series
    has no value that passes, or some victim was disturbed.
    """
    plan = load(file)
    folder = output or f"{plan.name}.results"
    workers = executor_for(executor, jobs or slots_for(plan))
    try:
        if quiet:
            results = run(plan, folder, executor=workers)
        else:
            with Teller(plan.name) as teller:
                results = run(plan, folder, executor=workers, watcher=teller)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what is done is in {folder}: run it again to go on", err=True)
        sys.exit(_INTERRUPTED)
    _show(results)
    _write(folder)
    sys.exit(0 if _all_found(results) else 1)


@experiment.command("check")
@click.argument("file", metavar="FILE.toml")
def check_file(file: str) -> None:
    """Say what the experiment in FILE would do, and start nothing."""
    plan = Plan(load(file))
    click.echo(
        f"{plan.experiment.name}: about {plan.still_expected} runs of at most "
        f"{plan.experiment.timeout:g} s each, kernel {plan.experiment.kernel}"
    )


@experiment.command("report")
@click.argument("folder", metavar="DIR")
def report(folder: str) -> None:
    """Write the page, the pictures and the summary of the results in DIR once more."""
    with Store(os.path.join(folder, RESULTS)) as store:
        _show(results_of(store))
    _write(folder)


def _write(folder: str) -> None:
    written, missing = write_all(folder)
    click.echo(f"wrote {', '.join(written)}")
    for one in missing:
        click.echo(one, err=True)


def _all_found(results: Mapping[str, Any]) -> bool:
    findings = results["findings"]
    if findings["matrix"]:
        return all(good for row in findings["matrix"]["passed"] for good in row)
    if findings["curves"]:
        return all(curve["knee"] is not None for curve in findings["curves"])
    return all(one["passed"] for one in results["runs"])


def _show(results: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    runs = results["runs"]
    failed = [one for one in runs if not one["passed"]]
    console.print(f"{len(runs)} runs, {len(failed)} did not pass")
    if results["findings"]["matrix"]:
        console.print(_matrix_table(results["findings"]["matrix"]))
    elif results["findings"]["curves"]:
        curves = results["findings"]["curves"]
        console.print(_curve_table(curves))
        if any(curve["lowest_passes"] for curve in curves):
            console.print(
                f"the lowest {curves[0]['along']} tried passes already: a smaller one may, too; give a "
                "lower first end to find out"
            )
    for one in failed[:3] if not results["findings"]["curves"] else []:
        console.print(f"{one['params'] or one['pair'] or 'the run'}: {'; '.join(one['reasons'])}")


def _curve_table(curves: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("series")
    for heading in ("smallest that passes", "in bytes", "values tried", "runs"):
        table.add_column(heading, justify="right")
    for curve in curves:
        knee = curve["knee"]
        name = ", ".join(f"{key}={value}" for key, value in curve["params"].items())
        table.add_row(
            name or curve["along"],
            "none" if knee is None else _knee(int(knee), curve),
            "" if knee is None else f"{int(knee)}",
            str(len(curve["points"])),
            str(sum(point["runs"] for point in curve["points"])),
        )
    return table


def _knee(knee: int, curve: Mapping[str, Any]) -> str:
    size = format_size(knee)
    return f"at most {size}" if curve["lowest_passes"] else size


def _matrix_table(matrix: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("p99 of victim, times")
    for name in matrix["boxes"]:
        table.add_column(f"beside {name}", justify="right")
    rows = zip(matrix["boxes"], matrix["ratios"], matrix["passed"], strict=True)
    for victim, ratios, passed in rows:
        cells = [
            "unknown" if ratio is None else f"{ratio:.2f}{'' if good else '  too much'}"
            for ratio, good in zip(ratios, passed, strict=True)
        ]
        table.add_row(victim, *cells)
    return table
