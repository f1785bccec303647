"""The ``services`` commands. Knows options and output; ``run.py`` and ``control.py`` do the work."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from kmem_harness.core.releases import DEFAULT_PROFILE
from kmem_harness.services.door.control import ask_running
from kmem_harness.services.unitfile.names import completed

__all__ = ["services"]


def _property(text: str) -> tuple[str, str, str]:
    unit, colon, assignment = text.partition(":")
    key, equals, setting = assignment.partition("=")
    if not (colon and equals and key and unit):
        raise click.BadParameter(f"{text!r} is not UNIT:KEY=VALUE, as in web.service:X-KmemMax=8M")
    return completed(unit), key, setting


@click.group()
def services() -> None:
    """Run systemd's unit files in boxes, under a slice tree of memcgs. No systemd, no root."""


@services.command()
@click.argument("units", metavar="DIR|UNIT...", nargs=-1, required=True)
@click.option(
    "-p",
    "--property",
    "properties",
    multiple=True,
    metavar="UNIT:KEY=VALUE",
    type=_property,
    help="Set KEY on top of the unit's files; may be given often.",
)
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Stop everything, in order, after S seconds.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    help="Where services keep run, lib, cache, log and etc (default: a folder that is removed).",
)
@click.option(
    "--host-directories",
    is_flag=True,
    help="Let services keep them where systemd would: /run, /var/lib, and so on.",
)
@click.option("--kernel", metavar="PROFILE", default=DEFAULT_PROFILE, show_default=True)
@click.option("--costs", metavar="FILE.toml", help="Cost table to use instead of the profile's.")
@click.option("--isolation", type=click.Choice(["user", "pid", "none"]))
@click.option("--report", type=click.Path(dir_okay=False), metavar="FILE.json|FILE.html")
@click.option("--plain", is_flag=True, help="Print lines alone, no live table.")
@click.option("--quiet", is_flag=True, help="Print nothing but the table at the end.")
def run(
    units: tuple[str, ...], report: str | None, *, plain: bool, quiet: bool, **options: Any
) -> None:
    """Start units in order, show how they do, stop them in order.

    A DIR stands for every service, slice and target in it; a bare name is looked for in the DIRs
    given, then where systemd would. Ends at Ctrl-C, `services stop`, --for, or when nothing runs
    any more. Exits with 0 if no unit failed, else 1; 2 if something cannot be run, before anything
    starts.
    """
    from rich.console import Console

    from kmem_harness.report.files import check_report_path
    from kmem_harness.services.door.run import Options, run_services
    from kmem_harness.services.door.view import LiveView, PlainView, QuietView

    if report is not None:
        check_report_path(report)
    console = Console(highlight=False)
    live = console.is_terminal and not console.is_dumb_terminal and not plain
    kind = QuietView if quiet else LiveView if live else PlainView
    outcome = run_services(units, Options(**options), kind(console))
    if report is not None:
        _write_report(report, outcome)
    sys.exit(0 if outcome["held"] else 1)


@services.command()
@click.argument("unit")
@click.option(
    "--health",
    required=True,
    metavar="COMMAND",
    help="Shell command that exits with 0 where the service serves; {port} is where it listens.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="What {port} stands for, if not that.")
@click.option(
    "--within",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    metavar="S",
    help="How long it may take from its start until it serves.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="How often a limit is tried on the way; it is too small if it fails once.",
)
@click.option(
    "--confirm",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="How often the limit that is found has to hold in the end.",
)
@click.option("--resolution", type=click.IntRange(4096), default=4096, show_default=True)
@click.option(
    "-p",
    "--property",
    "properties",
    multiple=True,
    type=_property,
    help="Set KEY on top of the unit's files; {port} stands for a free port.",
)
@click.option(
    "--host-directories",
    is_flag=True,
    help="Let services keep them where systemd would: /run, /var/lib, and so on.",
)
@click.option("--kernel", metavar="PROFILE", default=DEFAULT_PROFILE, show_default=True)
@click.option("--costs", metavar="FILE.toml", help="Cost table to use instead of the profile's.")
@click.option("--isolation", type=click.Choice(["user", "pid", "none"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", is_flag=True, help="Tell nothing of the tries.")
def limit(
    unit: str,
    properties: tuple[tuple[str, str, str], ...],
    kernel: str,
    costs: str | None,
    isolation: str | None,
    *,
    host_directories: bool,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Find the smallest X-KmemMax under which UNIT starts and serves.

    Says what was refused below it and what it uses at its peak, and gives the drop-in to paste and the
    experiment that looks for the same.
    """
    from kmem_harness.harness import Harness
    from kmem_harness.services.door.limit import Question, find_limit
    from kmem_harness.services.door.run import Options
    from kmem_harness.services.door.view import show_limit

    unit = unit if "/" in unit else completed(unit)
    options = Options(properties=properties, host_directories=host_directories)
    question = Question(unit, options=options, **asked)
    with Harness(kernel, costs, isolation) as harness:
        tell = (lambda _: None) if quiet else (lambda line: click.echo(line, err=True))
        found = find_limit(harness, question, tell)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        click.echo(show_limit(found))


def _write_report(path: str, outcome: dict[str, Any]) -> None:
    if path.endswith(".html"):
        from kmem_harness.services.door.page import write_services_page

        write_services_page(path, outcome)
        return
    from kmem_harness.report.files import write_json

    write_json(path, outcome)


@services.command()
@click.argument("units", metavar="[UNIT...]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(units: tuple[str, ...], *, as_json: bool) -> None:
    """Show the units of a running instance of yours."""
    from rich.console import Console

    from kmem_harness.services.door.view import show_hints, table_of

    answer = ask_running("status", units=list(units))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    console = Console(highlight=False)
    console.print(table_of(answer["units"]))
    show_hints(console, answer["units"])
    for unit in answer["units"] if units else ():
        for line in unit["lines"]:
            console.print(f"{unit['unit']}  {line}", markup=False, soft_wrap=True)


@services.command("set-property")
@click.argument("unit")
@click.argument("assignments", metavar="KEY=VALUE...", nargs=-1, required=True)
def set_property(unit: str, assignments: tuple[str, ...]) -> None:
    """Change limits of a running unit: X-KmemMax, MemoryMax, MemoryHigh, TasksMax.

    TasksMax counts from the unit's next start on.
    """
    ask_running("set-property", unit=unit, assignments=list(assignments))


@services.command("reset-failed")
@click.argument("units", metavar="[UNIT...]", nargs=-1)
def reset_failed(units: tuple[str, ...]) -> None:
    """Forget that units failed, and how often they were started: their start limit begins anew."""
    ask_running("reset-failed", units=list(units))


def _job(name: str, text: str, *, required: bool = True) -> None:
    @services.command(name, help=text)
    @click.argument("units", metavar="UNIT...", nargs=-1, required=required)
    @click.option(
        "--job-mode",
        "mode",
        type=click.Choice(
            ["replace", "fail", "isolate"] if name == "start" else ["replace", "fail"]
        ),
        default="replace",
        help="What becomes of jobs that are queued already, as with systemctl.",
    )
    def job(units: tuple[str, ...], mode: str) -> None:
        if not ask_running(name, units=list(units), mode=mode):
            raise click.ClickException(f"{name} {' '.join(units)} failed; see services status")


_job("stop", "Stop units and all that need them; without a UNIT everything.", required=False)
_job("start", "Start units of a running instance again, and what they pull in.")
_job("restart", "Stop units, and start them again, with those that run and need them.")
_job("try-restart", "Restart those of the units that run.")
_job("reload", "Have services read their configuration again.")
