"""The ``replay`` command. Knows options and output; the engine does the work."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.replay.engine import Outcome, Result, record, replay_file

__all__ = ["replay"]


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--record",
    "record_to",
    metavar="OUT",
    help="Write the emulated run as a trace: to the file OUT, or for several files into the directory OUT.",
)
@click.option("--ktap", is_flag=True, help="Print KTAP, as kernel tests do.")
@click.option("--costs", metavar="FILE.toml", help="Cost table to use instead of the profile's.")
def replay(files: tuple[str, ...], record_to: str | None, costs: str | None, *, ktap: bool) -> None:
    """Play recorded traces of a real kernel on the emulated controller.

    Shows each step that differs, and exits 1 if any does.
    """
    if ktap:
        click.echo("KTAP version 1")
        click.echo(f"1..{len(files)}")
    results = []
    for number, file in enumerate(files, 1):
        try:
            result = replay_file(file, costs=costs, stream=None if ktap else sys.stdout)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error
        results.append(result)
        if ktap:
            _print_ktap(number, result)
        if record_to is not None:
            try:
                record(result, _place(record_to, file, several=len(files) > 1))
            except OSError as error:
                raise click.FileError(str(error.filename), error.strerror) from error
    passed = sum(result.passed for result in results)
    failed = sum(result.failed for result in results)
    click.echo(f"{'# ' if ktap else ''}{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def _print_ktap(number: int, result: Result) -> None:
    for line in result.differences:
        click.echo(f"# {line}")
    words = "not ok" if result.failed else "ok"
    skip = " # SKIP not a trace" if result.outcome is Outcome.NOT_A_TRACE else ""
    click.echo(f"{words} {number} {Path(result.file).stem}{skip}")


def _place(out: str, file: str, *, several: bool) -> Path:
    """Choose where one file's record goes."""
    path = Path(out)
    if several:
        path.mkdir(parents=True, exist_ok=True)
    return path / Path(file).name if path.is_dir() else path
