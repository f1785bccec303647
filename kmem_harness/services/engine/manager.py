"""Run a plan of units: start in order, keep looking at the figures, stop in order.

Lives in one event loop. What becomes of one unit is ``member.py``'s, in which order they start and
stop ``jobs.py``'s; how a service itself goes through its states ``service.py``'s.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.owner.client import ControllerDiedError
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.engine.jobs import Jobs
from kmem_harness.services.engine.member import Member
from kmem_harness.services.engine.service import Service
from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.unitfile.unit import apply_property

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from kmem_harness.harness import Harness
    from kmem_harness.services.door.journal import Journal
    from kmem_harness.services.engine.plan import Plan
    from kmem_harness.services.unitfile.specifiers import Directories
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Manager"]

REPORT_VERSION = 1
_LOOK_SECONDS = 0.25
_EVERYBODY_MAY_PASS = 0o711


class Manager(Jobs):
    """Everything of one ``services run``."""

    def __init__(
        self, harness: Harness, plan: Plan, directories: Directories, journal: Journal
    ) -> None:
        """Prepare the units of *plan*; nothing is started yet.

        Raises: ConfigurationError if a memcg cannot have its limit; OSError from a control file.
        """
        super().__init__(plan, journal)
        self.harness = harness
        self.directories = directories
        self.controller_died = False
        self._notify_numbers = itertools.count(1)
        self._notify_paths: dict[str, str] = {}
        self._began = asyncio.get_running_loop().time()
        for folder in (f"{harness.controller.directory}/s", directories.base):
            Path(folder).mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:  # a service that runs as another user has to get there
            os.chmod(harness.controller.directory, _EVERYBODY_MAY_PASS)
        for name in plan.in_order():
            member = self.members[name] = Member.make(plan.units[name], harness)
            if member.memcg is not None and member.unit.service is not None:
                member.service = Service(member.unit, member.memcg, self)

    # -- what a service needs: service.World -----------------------------------------------

    def notify_path(self, unit: Unit) -> str:
        """Choose a short path: a socket's address holds 107 bytes."""
        if unit.text not in self._notify_paths:
            number = next(self._notify_numbers)
            self._notify_paths[unit.text] = f"{self.harness.controller.directory}/s/n{number}"
        return self._notify_paths[unit.text]

    def faults_of(self, unit: Unit) -> list[str]:
        """List X-KmemInject= of the unit and of the slices above it; each box counts for itself."""
        rules = list(unit.limits.kmem_inject)
        above = self.plan.units.get(unit.slice)
        return rules if above is None else [*self.faults_of(above), *rules]

    def kinds_of(self, unit: Unit) -> list[str]:
        """List X-KmemKinds= of the unit, or else of the next slice above it that has some."""
        above = self.plan.units.get(unit.slice)
        if unit.limits.kmem_kinds or above is None:
            return unit.limits.kmem_kinds
        return self.kinds_of(above)

    def log(self, unit: str, line: str, *, own: bool = False) -> None:
        """Take a line."""
        self.journal.add(unit, line, own=own)

    def changed(self, service: Service) -> None:
        """Act on another state of a service: tell, and start or stop those that depend on it."""
        name, state = service.unit.text, service.state
        result = service.result.value if state in (State.FAILED, State.AUTO_RESTART) else ""
        self.journal.state(name, state, result)
        self._changed.set()
        if self._stopping.is_set():
            return
        unit = service.unit.unit
        if state in (State.FAILED, State.DEAD, State.AUTO_RESTART):
            for bound in self.plan.bound_to(name):
                self._react(self.stop([bound]))
        if state is State.FAILED:
            self._react(self.start(one for one in unit.on_failure if one in self.members))
        elif state is State.DEAD and service.result is Result.SUCCESS:
            self._react(self.start(one for one in unit.on_success if one in self.members))

    def over(self, service: Service, report: dict[str, Any]) -> None:
        """Take the last figures of an activation."""
        self.members[service.unit.text].over(report)

    # -- from the making of its memcgs to their end ----------------------------------------

    async def __aenter__(self) -> Self:
        """Begin to look at the figures."""
        self._looking = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop what still runs, take the last figures, and take the memcgs away."""
        with suppress(ControllerDiedError):
            await self.stop_all()
            self._looking.cancel()
            await asyncio.gather(self._looking, *self._reactions, return_exceptions=True)
            await self.look()
            for name in reversed(self.plan.in_order()):
                memcg = self.members[name].memcg
                if memcg is not None:
                    with suppress(OSError):  # somebody else's boxes are in it
                        memcg.remove()

    # -- the whole -------------------------------------------------------------------------

    async def run(self, seconds: float | None = None) -> bool:
        """Start all, watch until told to stop or nothing runs any more, and stop all.

        *seconds* bounds the time between. Gives whether every unit held: none has failed.
        Raises: ControllerDiedError.
        """
        async with self:
            starting = asyncio.create_task(
                self.start([name for name in self.members if name not in self.plan.on_demand])
            )
            ending = asyncio.create_task(self._until_over(starting))
            await asyncio.wait([ending], timeout=seconds)
            ending.cancel()
            await self.stop_all()
            starting.cancel()
        if self.controller_died or not self.harness.controller.alive:
            raise ControllerDiedError("the controller died, and every box with it")
        return self.held

    @property
    def held(self) -> bool:
        """Whether no unit has failed."""
        return all(member.state is not State.FAILED for member in self.members.values())

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return asyncio.get_running_loop().time() - self._began

    def ask_to_stop(self) -> None:
        """Have :meth:`run` stop everything, in order."""
        self._stopping.set()
        self._changed.set()

    async def _until_over(self, starting: asyncio.Task[Any]) -> None:
        while not self._stopping.is_set() and not self.controller_died:
            self._changed.clear()
            services = [m.service for m in self.members.values() if m.service is not None]
            reacting = self._nr_restarting or any(not task.done() for task in self._reactions)
            if starting.done() and not reacting and all(one.is_settled for one in services):
                return
            await self._changed.wait()

    def set_property(self, name: str, assignments: Iterable[str]) -> None:
        """Change limits of a running unit: ``["X-KmemMax=8M"]``.

        Raises: ConfigurationError, also if a counter is above its new limit.
        """
        member = self._member(name)
        for assignment in assignments:
            before = replace(member.unit.limits)
            key = apply_property(member.unit, assignment)
            try:
                member.set_limit(key)
            except ConfigurationError:
                member.unit.limits = before
                raise
            self.log(name, f"{assignment} set", own=True)

    # -- memcgs and figures ----------------------------------------------------------------

    async def _keep_looking(self) -> None:
        """Look at every box and slice, again and again."""
        while True:
            try:
                await self.look()
            except ControllerDiedError:
                self.controller_died = True
                self._changed.set()
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Bring all figures up to date. Raises: ControllerDiedError."""
        for name, member in list(self.members.items()):
            told = await member.look(self.harness.controller)
            if told is not None:
                self.log(name, told, own=True)

    # -- what others are shown -------------------------------------------------------------

    def describe(self, name: str) -> dict[str, Any]:
        """Say all about one unit, JSON-ready. Units: bytes. Raises: ConfigurationError."""
        return self._member(name).describe()

    def report(self) -> dict[str, Any]:
        """Give the report of the whole run, JSON-ready."""
        return {
            "version": REPORT_VERSION,
            "kernel": self.harness.kernel,
            "isolation": self.harness.isolation,
            "seconds": round(self.seconds, 3),
            "held": self.held,
            "assumed": self.plan.assumed,
            "units": [
                {**member.describe(), "activations": member.reports}
                for member in (self.members[name] for name in self.plan.in_order())
            ],
        }
