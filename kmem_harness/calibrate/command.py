"""The ``calibrate`` command. Knows options, progress and output; its neighbours measure."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kmem_harness.calibrate.check import CHECKS, TOLERANCE, Outcome, check, stressors
from kmem_harness.calibrate.cost_file import cost_text
from kmem_harness.calibrate.measure import LOADS, Load, Measurement, measure
from kmem_harness.calibrate.memcg import find_hierarchy
from kmem_harness.core.errors import ConfigurationError, KmemHarnessError, UnsupportedHostError
from kmem_harness.core.sizes import format_size
from kmem_harness.costs.table import load_costs
from kmem_harness.harness import Harness
from kmem_harness.procfs.libc import libc
from kmem_harness.sigterm import ending_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["calibrate"]

_BASE = "5.10"
_OF_SPACES = ("vma", "page-table")
_CLONE_NEWIPC = 0x08000000
_APART = 1
_DESCRIPTORS = 65536


@click.command(
    epilog="Exits with 0; with --check, with 1 if the two are more than 10 % apart anywhere."
)
@click.option("-o", "--output", metavar="FILE.toml", help="Write the cost table there.")
@click.option("--check", "with_check", is_flag=True, help="Hold the emulation against the kernel.")
@click.option(
    "--costs", metavar="FILE.toml", help="With --check: use this table, and measure nothing."
)
@click.option(
    "--kind", "chosen", metavar="KIND", multiple=True, help="Only this kind; may be repeated."
)
def calibrate(
    output: str | None, *, with_check: bool, costs: str | None, chosen: tuple[str, ...]
) -> NoReturn:
    """Measure what kernel objects cost on this host's kernel, as root.

    Makes objects of each kind in memory cgroups of its own, and writes a cost table for --costs.
    With --check it then runs loads in boxes that lie in real memory cgroups, too, and prints what
    each counted.
    """
    if costs is not None and (not with_check or output is not None):
        raise click.UsageError("--costs is for --check, and leaves -o nothing to write.")
    loads = _chosen(chosen)
    table = load_costs(costs or _BASE)
    if output is not None and not os.access(Path(output).absolute().parent, os.W_OK):
        message = f"-o {output}: no file can be written there; name one in a directory of yours"
        raise ConfigurationError(message)
    hierarchy = find_hierarchy()
    _leave_no_identifiers()
    _allow_descriptors()
    with ending_on_sigterm(), tempfile.TemporaryDirectory(prefix="kmem-calibrate-") as directory:
        if costs is None:
            found = _measured(loads, hierarchy)
            text = cost_text(_BASE, table.kinds, found, f"Linux {os.uname().release}")
            costs = output or f"{directory}/costs.toml"
            Path(costs).write_text(text, encoding="utf-8")
            load_costs(costs)
            if output is None and not with_check:
                click.echo(text, nl=False)
        if not with_check:
            sys.exit(0)
        outcomes = _checked(chosen, costs, hierarchy)
    _show(outcomes)
    if not stressors():
        Console(stderr=True).print("stress-ng is not installed: its stressors were left out")
    sys.exit(0 if all(outcome.is_close for outcome in outcomes) else _APART)


def _chosen(kinds: Sequence[str]) -> list[Load]:
    known = [*dict.fromkeys(load.kind for load in CHECKS), "stress"]
    for kind in kinds:
        if kind not in known:
            message = f"--kind {kind} is not measured; give one of {', '.join(known)}"
            raise ConfigurationError(message)
    return [load for load in LOADS if not kinds or load.kind in kinds]


def _leave_no_identifiers() -> None:
    """Enter an IPC namespace: System V objects outlive who made them, but not that."""
    if libc().unshare(_CLONE_NEWIPC) != 0:
        number = ctypes.get_errno()
        raise UnsupportedHostError(
            f"no IPC namespace can be had: {os.strerror(number)}",
            missing="CAP_SYS_ADMIN",
            remedy="run as root, outside of a container or in one with --privileged",
        )


def _allow_descriptors() -> None:
    """Let loads have tables of descriptors large enough to measure, if root may say so here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, _DESCRIPTORS)))


def _measured(loads: list[Load], hierarchy: str) -> dict[str, Measurement]:
    """Measure the kinds of *loads*, the console told which are left out and why."""
    kinds = load_costs(_BASE).kinds
    prices = {name: float(kinds[name].nbytes) for name in _OF_SPACES}
    included = {name: kinds[name].included for name in _OF_SPACES}
    found: dict[str, Measurement] = {}
    with _bar(len(loads)) as progress:
        task = progress.task_ids[0]
        for load in loads:
            progress.update(task, description=f"measuring {load.kind}")
            try:
                found[load.kind] = measure(load, hierarchy, prices, included)
            except UnsupportedHostError as error:
                progress.console.print(f"{load.kind} is left as it was: {error}")
            else:
                if load.kind in prices:
                    prices[load.kind] = found[load.kind].nbytes
            progress.advance(task)
    return found


def _checked(chosen: Sequence[str], costs: str, hierarchy: str) -> list[Outcome]:
    """Run the loads of the *chosen* kinds, or all, the mixed one and those of stress-ng."""
    loads = [*CHECKS, *stressors()]
    if chosen:
        loads = [load for load in loads if load.kind in chosen]
    outcomes = []
    table = load_costs(costs)
    with Harness(table.kernel, costs) as harness, _bar(len(loads)) as progress:
        task = progress.task_ids[0]
        for load in loads:
            progress.update(task, description=f"checking {load.program}")
            try:
                outcomes.append(check(load, harness, table, hierarchy))
            except UnsupportedHostError as error:
                progress.console.print(f"{load.program} is left out: {error}")
            except KmemHarnessError as error:
                progress.console.print(f"{load.program} failed: {error}")
                outcomes.append(Outcome(load.program, (), ()))
            progress.advance(task)
    return outcomes


def _bar(total: int) -> Progress:
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    progress.add_task("", total=total)
    return progress


def _show(outcomes: list[Outcome]) -> None:
    table = Table("load", "emulated", "real", "difference at each look", "", box=None)
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            format_size(outcome.emulated[-1]) if outcome.real else "-",
            format_size(outcome.real[-1]) if outcome.real else "-",
            "  ".join(f"{difference:+6.1%}" for difference in outcome.differences()) or "-",
            "" if outcome.is_close else f"over {TOLERANCE:.0%}" if outcome.real else "failed",
        )
    Console(highlight=False).print(table)
