"""Run a plan of units: have jobs done on them, keep looking at their figures, stop them in the end.

Lives in one event loop. What becomes of one unit is ``member.py``'s, which jobs are done and in which
order ``jobs.py``'s; how a service itself goes through its states ``service.py``'s.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kmem_harness.controller.owner.client import ControllerDiedError
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.engine.jobs import Jobs
from kmem_harness.services.engine.member import Member
from kmem_harness.services.engine.passage import Passage
from kmem_harness.services.engine.rules import JobMode, JobResult, JobType
from kmem_harness.services.engine.service import Service
from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.engine.task_bounds import TaskBounds
from kmem_harness.services.engine.transaction import TransactionError
from kmem_harness.services.unitfile.names import completed
from kmem_harness.services.unitfile.unit import apply_property

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from kmem_harness.harness import Harness
    from kmem_harness.services.engine.plan import Plan
    from kmem_harness.services.unitfile.specifiers import Directories
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Manager"]

REPORT_VERSION = 1
_LOOK_SECONDS = 0.25


#: Why a unit did not start, by the result of its job, where the unit itself has not failed.
_REFUSED = {
    JobResult.DEPENDENCY: Result.DEPENDENCY,
    JobResult.ASSERT: Result.ASSERT,
    JobResult.TIMEOUT: Result.TIMEOUT,
}


class Log(Protocol):
    """Who keeps what units print and what happens to them."""

    def add(self, unit: str, text: str, *, own: bool = False) -> None:
        """Take a line."""

    def state(self, unit: str, state: State, result: str) -> None:
        """Take another state of a unit."""

    def lines_of(self, unit: str, most: int = 10) -> list[str]:
        """Give the last lines of one unit."""


class Manager:
    """Everything of one ``services run``."""

    def __init__(
        self, harness: Harness, plan: Plan, directories: Directories, journal: Log
    ) -> None:
        """Prepare the units of *plan*; nothing is started yet.

        Raises: ConfigurationError if a memcg cannot have its limit; OSError from a control file.
        """
        self.plan = plan
        self.journal = journal
        self.harness = harness
        self.members: dict[str, Member] = {}
        self._jobs = Jobs(plan.relations, lambda unit, text: self.log(unit, text, own=True))
        self._changed = asyncio.Event()
        self._jobs.watch(self._job_finished, self._changed.set)
        self._stopping = asyncio.Event()
        self.directories = directories
        self.controller_died = False
        self._notify_numbers = itertools.count(1)
        self._notify_paths: dict[str, str] = {}
        self._began = asyncio.get_running_loop().time()
        self._passage = Passage(harness.controller.directory)
        self._bounds = TaskBounds(plan.units)
        Path(directories.base).mkdir(parents=True, exist_ok=True)
        for name in plan.in_order():
            member = self.members[name] = Member.make(plan.units[name], harness)
            if member.memcg is not None and member.unit.service is not None:
                member.service = Service(member.unit, member.memcg, self)
            member.changed = partial(self._member_changed, name)
            self._jobs.subjects[name] = member.service or member

    # -- what a service needs: service.World -----------------------------------------------

    def notify_path(self, unit: Unit) -> str:
        """Choose a short path: a socket's address holds 107 bytes."""
        if unit.text not in self._notify_paths:
            number = next(self._notify_numbers)
            self._notify_paths[unit.text] = f"{self._passage.path}/n{number}"
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

    def queued(self, unit: str) -> JobType | None:
        """Give the job that a unit has."""
        return self._jobs.queued(unit)

    def is_bound_above(self, unit: Unit) -> bool:
        """Say whether its slices bound its tasks, together with its own ``TasksMax=``."""
        return self._bounds.has(unit.text)

    def bound_tasks(self, unit: Unit) -> None:
        """Put what runs in the unit's memcg under the task bounds of its slices."""
        memcg = self.members[unit.text].memcg
        if memcg is not None:
            self._bounds.enter(unit.text, map(int, memcg.read("cgroup.procs").split()))

    def start_again(self, unit: str) -> bool:
        """Queue a restart for ``Restart=``; false if that cannot be."""
        if not self._jobs.propagates:
            return False
        try:
            self._jobs.add(JobType.RESTART, [unit])
        except TransactionError as error:
            self.log(unit, str(error), own=True)
            return False
        return True

    def changed(
        self, service: Service, before: State, *, will_restart: bool, reload_failed: bool
    ) -> None:
        """Take another state of a service: tell it, and have jobs act on it."""
        name, state = service.unit.text, service.state
        if not will_restart:  # else it is down for a moment only
            failed = state in (State.FAILED, State.AUTO_RESTART)
            self.journal.state(name, state, service.result.value if failed else "")
        self._jobs.notify(
            name,
            before.active,
            state.active,
            will_restart=will_restart,
            reload_failed=reload_failed,
        )

    def _member_changed(self, name: str, before: State) -> None:
        """Take another state of a slice or target."""
        state = self.members[name].state
        if state is not before:
            self.journal.state(name, state, "")
            self._jobs.notify(name, before.active, state.active)

    def _job_finished(self, name: str, kind: JobType, result: JobResult) -> None:
        """Remember why a unit did not start that has not failed itself."""
        if kind is JobType.START and result is not JobResult.CANCELED:
            self.members[name].refused = _REFUSED.get(result, Result.SUCCESS)

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
            await asyncio.gather(self._looking, return_exceptions=True)
            await self.look()
            for name in reversed(self.plan.in_order()):
                memcg = self.members[name].memcg
                if memcg is not None:
                    with suppress(OSError):  # somebody else's boxes are in it
                        memcg.remove()
        self._bounds.close()
        self._passage.close()

    # -- the whole -------------------------------------------------------------------------

    async def run(self, seconds: float | None = None) -> bool:
        """Start all, watch until told to stop or nothing runs any more, and stop all.

        *seconds* bounds the time between. Gives whether every unit held: none has failed.
        Raises: ControllerDiedError.
        """
        async with self:
            starting = asyncio.create_task(self.start(self.plan.asked))
            ending = asyncio.create_task(self._until_over(starting))
            await asyncio.wait([ending], timeout=seconds)
            ending.cancel()
            await self.stop_all()
            starting.cancel()
        if self.controller_died or not self.harness.controller.alive:
            raise ControllerDiedError("the controller died, and every box with it")
        return self.held

    # -- jobs ------------------------------------------------------------------------------

    async def start(self, names: Iterable[str], mode: str = "replace") -> bool:
        """Start units and those they pull in, in order; true if all of *names* are started then.

        Raises: ConfigurationError if they cannot be started together.
        """
        return await self._do(JobType.START, names, mode)

    async def stop(self, names: Iterable[str], mode: str = "replace") -> bool:
        """Stop units and all that cannot be without them, last started first."""
        return await self._do(JobType.STOP, names, mode)

    async def restart(self, names: Iterable[str], mode: str = "replace") -> bool:
        """Stop and start units, and those that are stopped with them."""
        return await self._do(JobType.RESTART, names, mode)

    async def try_restart(self, names: Iterable[str], mode: str = "replace") -> bool:
        """Restart those that run."""
        return await self._do(JobType.TRY_RESTART, names, mode)

    async def reload(self, names: Iterable[str], mode: str = "replace") -> bool:
        """Have services read their configuration again."""
        return await self._do(JobType.RELOAD, names, mode)

    async def isolate(self, name: str) -> bool:
        """Start a unit, and stop all that it does not pull in. Raises: ConfigurationError."""
        return await self._do(JobType.START, [name], JobMode.ISOLATE.value)

    async def _do(self, kind: JobType, names: Iterable[str], mode: str) -> bool:
        """Have a job done on units, and all that it calls for; true if it was on each of *names*."""
        units = [self._member(name).unit.text for name in names]
        try:
            job_mode = JobMode(mode)
        except ValueError:
            known = ", ".join(one.value for one in JobMode)
            raise ConfigurationError(f"job mode {mode!r} is not known; known are {known}") from None
        for unit in units if job_mode is JobMode.ISOLATE else ():
            if not self.plan.units[unit].unit.allow_isolate:
                raise ConfigurationError(f"{unit} cannot be isolated; give it AllowIsolate=yes")
        jobs = self._jobs.add(kind, units, job_mode)
        if jobs:
            await asyncio.wait([job.done for job in jobs.values()])
        self._changed.set()  # who waits for all to be over looks when this is, too
        asked = [jobs[unit] for unit in units if unit in jobs]
        return all(job.done.result() is JobResult.DONE for job in asked)

    def refuse_by_hand(self, op: str, names: Iterable[str]) -> None:
        """Raise if a person may not start or stop units themselves: ConfigurationError."""
        for name in names:
            unit = self._member(name).unit.unit
            refused = {
                "start": unit.refuse_manual_start,
                "stop": unit.refuse_manual_stop,
                "restart": unit.refuse_manual_start,
            }
            if refused.get(op, False):
                key = "RefuseManualStop" if op == "stop" else "RefuseManualStart"
                message = f"{name} is not for people to {op}: it has {key}=yes"
                raise ConfigurationError(message)

    def reset_failed(self, names: Iterable[str]) -> None:
        """Forget that units failed, and how often they were started."""
        for name in names:
            member = self._member(name)
            member.refused = Result.SUCCESS
            if member.service is not None:
                member.service.reset_failed()

    async def stop_all(self) -> None:
        """Stop everything, in order."""
        self._stopping.set()
        self._jobs.propagates = False
        await self._do(JobType.STOP, self.members, JobMode.REPLACE.value)

    async def kill_all(self) -> None:
        """End every box at once; the services in them have failed then."""
        self._stopping.set()
        self._jobs.propagates = False
        cells = [m.service.cell for m in self.members.values() if m.service is not None]
        await asyncio.gather(*(one.kill() for one in cells if one is not None))

    def _member(self, name: str) -> Member:
        try:
            return self.members[completed(name)]
        except KeyError:
            known = ", ".join(sorted(self.members))
            message = f"unit {name!r} does not run here; running are {known}"
            raise ConfigurationError(message) from None

    @property
    def held(self) -> bool:
        """Whether no unit has failed."""
        return all(member.held for member in self.members.values())

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
            if starting.done() and self._jobs.idle and all(one.is_settled for one in services):
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
            member.account.tasks_refused = self._bounds.refused(name)
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
