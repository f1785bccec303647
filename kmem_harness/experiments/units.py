"""Run systemd units as one box of a run: started, asked, stopped and reported on like any other."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from kmem_harness.services.door.journal import Journal
from kmem_harness.services.door.run import load_plan
from kmem_harness.services.engine.manager import Manager
from kmem_harness.services.unitfile.names import completed
from kmem_harness.services.unitfile.specifiers import Directories

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.experiments.model import BoxPlan
    from kmem_harness.harness import Harness
    from kmem_harness.services.engine.plan import Plan
    from kmem_harness.services.engine.service import Service

__all__ = ["Units", "check_units", "properties_of"]

_KMEM_MAX = "X-KmemMax"
_MEMORY_MAX = "MemoryMax"
#: After its own timeouts, which hold while it stops.
_STOP_SECONDS = 30.0


def properties_of(plan: BoxPlan) -> list[tuple[str, str, str]]:
    """Give what is set on top of the unit files: the properties, and the limits of each service."""
    found = [
        (unit, key, value) for unit, row in plan.properties.items() for key, value in row.items()
    ]
    services = [
        name
        for source in plan.unit
        if (name := completed(os.path.basename(source))).endswith(".service")
        and not os.path.isdir(source)
    ]
    for key, limit in ((_KMEM_MAX, plan.kmem_limit), (_MEMORY_MAX, plan.memory_limit)):
        if limit is not None:
            found += [(name, key, limit) for name in services]
    return found


def check_units(plan: BoxPlan) -> None:
    """See that the units can be loaded, without what is not known yet.

    Raises: ConfigurationError, with file and line.
    """
    known = [one for one in properties_of(plan) if "{" not in one[2]]
    with tempfile.TemporaryDirectory(prefix="kmem-units-") as nowhere:
        load_plan(plan.unit, Directories(nowhere), known)


class _Watched(Manager):
    """Keeps the last report of each service, which has its timeline."""

    reports: dict[str, dict[str, Any]]

    def over(self, service: Service, report: dict[str, Any]) -> None:
        """Take the last figures of an activation."""
        super().over(service, report)
        self.reports[service.unit.text] = report


class Units:
    """Units that run in a thread and an event loop of their own."""

    def __init__(self, harness: Harness, plan: BoxPlan, directory: str) -> None:
        """Start the units of *plan*; they keep their state below *directory*.

        Raises: ConfigurationError if they cannot be loaded; nothing is started then.
        """
        base = os.path.join(directory, plan.name)
        os.makedirs(base, exist_ok=True)
        directories = Directories(base)
        units = load_plan(plan.unit, directories, properties_of(plan))
        self._output = os.path.join(directory, f"{plan.name}.out")
        self._manager: _Watched | None = None
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(harness, units, directories), name=f"kmem-units-{plan.name}"
        )
        self._thread.start()
        self._begun.wait()

    def _run(self, harness: Harness, units: Plan, directories: Directories) -> None:
        try:
            with open(self._output, "w", encoding="utf-8") as output:
                asyncio.run(self._main(harness, units, directories, output))
        except Exception as error:  # noqa: BLE001 - handed on to whoever waits
            self._failure = error
        finally:
            self._begun.set()

    async def _main(
        self, harness: Harness, units: Plan, directories: Directories, output: Any
    ) -> None:
        journal = Journal(lambda entry: output.write(f"{entry.unit}: {entry.text}\n"))
        manager = _Watched(harness, units, directories, journal)
        manager.reports = {}
        self._manager, self._loop = manager, asyncio.get_running_loop()
        self._begun.set()
        await manager.run()

    # -- what a box can ---------------------------------------------------------------------

    @property
    def status(self) -> int | None:
        """0 if every unit held, else 1; ``None`` while they run."""
        if self._thread.is_alive():
            return None
        return 0 if self._manager is not None and self._manager.held else 1

    def wait(self, timeout: float | None = None) -> int:
        """Wait until nothing runs any more. Raises: TimeoutError, and what broke the run."""
        self._thread.join(timeout)
        status = self.status
        if status is None:
            raise TimeoutError(f"the units still run after {timeout} s")
        if self._failure is not None:
            raise self._failure
        return status

    def stop(self, grace: float) -> None:
        """Stop all, in order; each unit's own timeouts hold, and *grace* for all of them."""
        if self._manager is not None and self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._manager.ask_to_stop)
        self._thread.join(grace)

    def close(self) -> None:
        """Have nothing left of them: what does not stop ends with its harness."""
        self.stop(_STOP_SECONDS)

    def reports(self) -> Mapping[str, dict[str, Any]]:
        """Give the last report of each service that ran, by unit."""
        return {} if self._manager is None else self._manager.reports

    def report(self) -> dict[str, Any]:
        """Sum up: how they ended, and what they were refused over all activations."""
        manager = self._manager
        units = [manager.describe(name) for name in manager.plan.in_order()] if manager else []
        firsts = [unit["refusals"]["first"] for unit in units if unit["refusals"]["first"]]
        return {
            "exit_code": self.status,
            "signal": None,
            "refusals": {
                "total": sum(unit["refusals"]["total"] for unit in units),
                "first": min(firsts, key=lambda card: card["time"]) if firsts else None,
            },
        }
