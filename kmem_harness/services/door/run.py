"""Carry out ``services run``: load, check, run, report. The one place that joins them."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import DEFAULT_PROFILE
from kmem_harness.harness import Harness
from kmem_harness.services.door.control import serve_control
from kmem_harness.services.door.journal import Journal
from kmem_harness.services.engine.exec import check_unit
from kmem_harness.services.engine.manager import Manager
from kmem_harness.services.engine.passage import Passage
from kmem_harness.services.engine.plan import Plan, make_plan
from kmem_harness.services.unitfile.load import Library, read_request
from kmem_harness.services.unitfile.specifiers import Directories
from kmem_harness.services.unitfile.unit import Handling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.services.door.journal import Entry

__all__ = ["Options", "load_plan", "run_services"]

_REFRESH_SECONDS = 0.25


@dataclass(frozen=True)
class Options:
    """What a run of services can be told."""

    #: Assignments on top of all files: ``("web.service", "X-KmemMax", "8M")``.
    properties: Sequence[tuple[str, str, str]] = ()
    #: Stop everything after so long. Units: seconds.
    seconds: float | None = None
    #: Where services keep their state, kept; by default a folder that is removed at the end.
    directory: str | None = None
    #: Keep it where systemd would: /run, /var/lib, and so on.
    host_directories: bool = False
    kernel: str = DEFAULT_PROFILE
    costs: str | None = None
    isolation: str | None = None


class View:
    """What a run shows; this one shows nothing."""

    def show(self, entry: Entry) -> None:
        """Take one line."""

    def start(self, units: Callable[[], list[dict[str, Any]]]) -> None:
        """Learn where the figures come from."""

    def refresh(self) -> None:
        """Show how things stand; called several times a second."""

    def close(self, units: list[dict[str, Any]]) -> None:
        """Show how it ended."""


def load_plan(
    arguments: Sequence[str],
    directories: Directories,
    properties: Sequence[tuple[str, str, str]] = (),
) -> Plan:
    """Load what *arguments* (folders, files, names) ask for, and see that all of it can run.

    Raises: ConfigurationError; nothing is started then.
    """
    request = read_request(arguments)
    library = Library(request.folders, directories, properties, frozenset(request.names))
    plan = make_plan(library, request.names)
    if not any(unit.service for unit in plan.units.values()):
        message = f"{' '.join(arguments)}: no service is among them; name one, or its folder"
        raise ConfigurationError(message)
    for name, key, _ in properties:
        if name not in plan.units:
            message = f"{key}= is set for {name!r}, which is not among the units that run"
            raise ConfigurationError(message)
    for unit in plan.units.values():
        check_unit(unit)
    return plan


def run_services(
    arguments: Sequence[str], options: Options, view: View | None = None
) -> dict[str, Any]:
    """Run units to their end; give the report, in the shape of :meth:`Manager.report`.

    Raises: ConfigurationError before anything starts; UnsupportedHostError; ControllerDiedError.
    """
    view = view or View()
    # Before a harness is started: what cannot be loaded shall leave nothing running.
    with tempfile.TemporaryDirectory(prefix="kmem-services-") as nowhere:
        base = options.directory or nowhere
        load_plan(arguments, Directories(base, options.host_directories), options.properties)
    with Harness(options.kernel, options.costs, options.isolation) as harness:
        passage = Passage(harness.controller.directory)
        base = options.directory or passage.path
        directories = Directories(os.path.abspath(base), options.host_directories)
        try:
            plan = load_plan(arguments, directories, options.properties)
            return asyncio.run(_run(harness, plan, directories, options, view))
        finally:
            passage.close()


async def _run(
    harness: Harness, plan: Plan, directories: Directories, options: Options, view: View
) -> dict[str, Any]:
    journal = Journal(view.show)
    manager = Manager(harness, plan, directories, journal)
    loop = asyncio.get_running_loop()
    killing: list[asyncio.Task[None]] = []
    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            journal.add("services", "told to end twice: every box is killed", own=True)
            killing.append(asyncio.ensure_future(manager.kill_all()))
        asked = True
        manager.ask_to_stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with suppress(ValueError, RuntimeError):  # not in the main thread
            loop.add_signal_handler(number, stop)
    server = await serve_control(manager, harness.controller.directory)
    _tell_gaps(manager, journal)
    view.start(lambda: [manager.describe(name) for name in plan.in_order()])
    showing = asyncio.create_task(_keep_showing(view))
    try:
        await manager.run(options.seconds)
    finally:
        showing.cancel()
        server.close()
        report = manager.report()
        view.close(report["units"])
    return report


async def _keep_showing(view: View) -> None:
    while True:
        view.refresh()
        await asyncio.sleep(_REFRESH_SECONDS)


def _tell_gaps(manager: Manager, journal: Journal) -> None:
    """Say once, for each unit, what of it is not emulated."""
    for name, member in manager.members.items():
        for complaint in member.unit.complaints:
            journal.add(name, complaint, own=True)
        by_reason: dict[str, list[str]] = {}
        for one in member.unit.not_emulated():
            if one.handling is Handling.INVALID:
                journal.add(name, f"{one.assignment.place}: {one.why}; left out", own=True)
                continue
            reason = one.why or one.handling.value
            by_reason.setdefault(reason, []).append(f"{one.assignment.key}=")
        for reason, keys in by_reason.items():
            text = f"not emulated: {', '.join(dict.fromkeys(keys))}"
            journal.add(name, text if reason == "not emulated" else f"{text} ({reason})", own=True)
    for name, why in manager.plan.assumed.items():
        journal.add(name, why, own=True)
