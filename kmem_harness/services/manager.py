"""Run a plan of units: start in order, keep the figures, stop in order.

Lives in one event loop. Knows slices, targets and services, and jobs between them; how a service
itself goes through its states is ``service.py``'s.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.client import ControllerDiedError
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.accounts import Account, set_memcg_limit
from kmem_harness.services.names import slice_path
from kmem_harness.services.service import Service
from kmem_harness.services.states import ACTIVE, Result, State
from kmem_harness.services.unit import apply_property

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from kmem_harness.handles import MemcgHandle
    from kmem_harness.harness import Harness
    from kmem_harness.services.journal import Journal
    from kmem_harness.services.order import Plan
    from kmem_harness.services.specifiers import Directories
    from kmem_harness.services.unit import Unit

__all__ = ["Manager", "Member"]

REPORT_VERSION = 1
_LOOK_SECONDS = 0.25
_EVERYBODY_MAY_PASS = 0o711


@dataclass
class Member:
    """One unit of a running plan."""

    unit: Unit
    account: Account
    memcg: MemcgHandle | None = None
    service: Service | None = None
    #: Of what is no service.
    own_state: State = State.DEAD
    own_result: Result = Result.SUCCESS
    job: asyncio.Task[bool] | None = field(default=None, repr=False)

    @property
    def state(self) -> State:
        """Its sub-state."""
        return self.own_state if self.service is None else self.service.state

    @property
    def result(self) -> Result:
        """How it last went."""
        return self.own_result if self.service is None else self.service.result


class Manager:
    """Everything of one ``services run``."""

    def __init__(
        self, harness: Harness, plan: Plan, directories: Directories, journal: Journal
    ) -> None:
        """Prepare the units of *plan*; nothing is started yet.

        Raises: ConfigurationError if a memcg cannot have its limit; OSError from a control file.
        """
        self.harness = harness
        self.plan = plan
        self.directories = directories
        self.journal = journal
        self.members: dict[str, Member] = {}
        self.controller_died = False
        self._notify_numbers = itertools.count(1)
        self._notify_paths: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._nr_restarting = 0
        self._reactions: set[asyncio.Task[Any]] = set()
        self._began = asyncio.get_running_loop().time()
        for folder in (f"{harness.controller.directory}/s", directories.base):
            Path(folder).mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:  # a service that runs as another user has to get there
            os.chmod(harness.controller.directory, _EVERYBODY_MAY_PASS)
        for name in plan.in_order():
            self._add(plan.units[name])

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
        self.members[service.unit.text].account.close(report)

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

    # -- jobs ------------------------------------------------------------------------------

    async def start(self, names: Iterable[str]) -> bool:
        """Start units and those they pull in, in order; true if all of them are active then."""
        members = [self.members[name] for name in self._with_wanted(names)]
        for member in members:
            if member.job is None or member.job.done():
                member.job = asyncio.create_task(self._start_one(member))
        jobs = [member.job for member in members if member.job is not None]
        outcome = all(await asyncio.gather(*jobs)) if jobs else True
        self._changed.set()
        return outcome

    def _with_wanted(self, names: Iterable[str]) -> list[str]:
        """Add the units that are pulled in and not active."""
        found: list[str] = []
        waiting = [self._member(name).unit.text for name in names]
        while waiting:
            name = waiting.pop(0)
            if name not in found:
                found.append(name)
                unit = self.plan.units[name].unit
                pulled = [*unit.wants, *unit.requires, *unit.binds_to, self.plan.units[name].slice]
                waiting += [
                    other
                    for other in pulled
                    if other in self.members and self.members[other].state not in ACTIVE
                ]
        return found

    async def _start_one(self, member: Member) -> bool:
        name = member.unit.text
        await asyncio.sleep(0)  # so that the jobs of all are there before one looks at another's
        earlier = [self.members[other] for other in self.plan.after[name]]
        jobs = [other.job for other in earlier if other.job is not None]
        if jobs:
            await asyncio.wait(jobs)
        if self._stopping.is_set():
            return False
        for needed in sorted(self.plan.requires[name]):
            job = self.members[needed].job
            if job is not None and job.done() and not job.result():
                self.log(name, f"not started: {needed}, which it requires, failed", own=True)
                self._fail(member, Result.DEPENDENCY)
                return False
        if member.service is not None:
            return await member.service.start()
        member.own_state, member.own_result = State.ACTIVE, Result.SUCCESS
        self.journal.state(name, State.ACTIVE, "")
        return True

    def _fail(self, member: Member, result: Result) -> None:
        if member.service is not None:
            member.service.refuse_job(result)
        else:
            member.own_state, member.own_result = State.FAILED, result

    async def stop(self, names: Iterable[str]) -> None:
        """Stop units and all that need or are part of them, last started first."""
        leaving = self._with_dependent(names)
        stops: dict[str, asyncio.Task[None]] = {}
        for name in reversed(self.plan.in_order()):
            if name in leaving:
                later = [
                    stops[other]
                    for other in leaving & stops.keys()
                    if name in self.plan.after[other]
                ]
                stops[name] = asyncio.create_task(self._stop_one(self.members[name], later))
        if stops:
            await asyncio.gather(*stops.values())
        self._changed.set()

    def _with_dependent(self, names: Iterable[str]) -> set[str]:
        """Add the units that cannot be without those, or are in them."""
        found: set[str] = set()
        waiting = [self._member(name).unit.text for name in names]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.plan.stopped_with(name)
                waiting += [n for n, m in self.members.items() if m.unit.slice == name]
        return found

    async def _stop_one(self, member: Member, later: list[asyncio.Task[None]]) -> None:
        if later:
            await asyncio.wait(later)
        if member.service is not None:
            await member.service.stop()
        elif member.own_state is State.ACTIVE:
            member.own_state = State.DEAD

    async def stop_all(self) -> None:
        """Stop everything, in order."""
        self._stopping.set()
        await self.stop(self.members)

    async def kill_all(self) -> None:
        """End every box at once; the services in them have failed then."""
        self._stopping.set()
        cells = [m.service.cell for m in self.members.values() if m.service is not None]
        await asyncio.gather(*(one.kill() for one in cells if one is not None))

    async def restart(self, names: Iterable[str]) -> bool:
        """Stop and start units, and those that are stopped with them."""
        wanted = list(names)
        again = {one for one in self._with_dependent(wanted) if self.members[one].state in ACTIVE}
        self._nr_restarting += 1  # or the run would be over in between, if they are all there is
        try:
            await self.stop(wanted)
            return await self.start([*wanted, *sorted(again)])
        finally:
            self._nr_restarting -= 1
            self._changed.set()

    async def reload(self, names: Iterable[str]) -> bool:
        """Have services read their configuration again."""
        services = [self._member(name).service for name in names]
        answers = await asyncio.gather(*(one.reload() for one in services if one is not None))
        return all(answers)

    def set_property(self, name: str, assignments: Iterable[str]) -> None:
        """Change limits of a running unit: ``["X-KmemMax=8M"]``.

        Raises: ConfigurationError, also if a counter is above its new limit.
        """
        member = self._member(name)
        for assignment in assignments:
            before = replace(member.unit.limits)
            key = apply_property(member.unit, assignment)
            try:
                if member.memcg is not None:
                    self._set_limit(member, key, made_now=False)
            except ConfigurationError:
                member.unit.limits = before
                raise
            self.log(name, f"{assignment} set", own=True)

    def _react(self, job: Any) -> None:
        task = asyncio.ensure_future(job)
        self._reactions.add(task)
        task.add_done_callback(lambda _: self._changed.set())

    def _member(self, name: str) -> Member:
        try:
            return self.members[name]
        except KeyError:
            known = ", ".join(sorted(self.members))
            message = f"unit {name!r} does not run here; running are {known}"
            raise ConfigurationError(message) from None

    # -- memcgs and figures ----------------------------------------------------------------

    def _add(self, unit: Unit) -> None:
        """Make the memcg of a unit, below that of its slice, with its limits."""
        if unit.name.type == "target":
            self.members[unit.text] = Member(unit, Account(""))
            return
        if unit.name.type == "slice":
            path = slice_path(unit.text)
        else:
            path = f"{slice_path(unit.slice).rstrip('/')}/{unit.text}"
        member = Member(unit, Account(path))
        if path != "/":
            member.memcg = self.harness.memcg(path)
            for key in ("X-KmemMax", "MemoryMax"):
                self._set_limit(member, key, made_now=True)
            member.account.take_counters(member.memcg.counters())
            if unit.service is not None:
                member.service = Service(unit, member.memcg, self)
        self.members[unit.text] = member

    def _set_limit(self, member: Member, key: str, *, made_now: bool) -> None:
        limits, memcg = member.unit.limits, member.memcg
        assert memcg is not None  # noqa: S101 - callers have one
        try:
            if key == "X-KmemMax":
                set_memcg_limit(memcg, "kmem", limits.kmem_max, made_now=made_now)
            elif key == "MemoryMax":
                set_memcg_limit(memcg, "memory", limits.memory_max, made_now=made_now)
        except OSError as error:
            message = f"{member.unit.text}: {key}= cannot be set: {error.strerror}"
            raise ConfigurationError(message) from error
        member.account.take_counters(memcg.counters())

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
        for member in list(self.members.values()):
            cell = None if member.service is None else member.service.cell
            high = member.account.counters["memory"]["max_usage"]
            if cell is not None and not cell.lost:
                report = await asyncio.to_thread(cell.box.report)
                if member.service is not None and member.service.cell is cell:
                    if member.account.look(report):
                        member.service.out_of_memory()
                    if report["controller_died"]:
                        raise ControllerDiedError("the controller does not answer")
            elif member.memcg is not None:
                with suppress(OSError):
                    counters = await asyncio.to_thread(
                        self.harness.controller.counters, member.memcg.path, census=False
                    )
                    member.account.take_counters(counters)
            self._tell_memory_high(member, high)

    def _tell_memory_high(self, member: Member, before: int) -> None:
        """Say it once when MemoryHigh= is passed: there is nothing here that could be reclaimed."""
        high = member.unit.limits.memory_high
        now = member.account.counters["memory"]["max_usage"]
        if high >= 0 and before <= high < now:
            self.log(member.unit.text, f"MemoryHigh={high} passed: {now} bytes", own=True)

    # -- what others are shown -------------------------------------------------------------

    def describe(self, name: str) -> dict[str, Any]:
        """Say all about one unit, JSON-ready. Units: bytes."""
        member = self._member(name)
        service = member.service
        ending = service.main_ending if service is not None else None
        return {
            "unit": name,
            "description": member.unit.unit.description,
            "slice": member.unit.slice,
            "active": member.state.active,
            "state": member.state.value,
            "result": member.result.value,
            "starts": service.nr_starts if service else 0,
            "restarts": service.nr_restarts if service else 0,
            "main_pid": service.main_pid if service else 0,
            "main_ended": None
            if ending is None
            else {"code": ending.code, "signal": ending.signal, "core": ending.core},
            "status": service.status_text if service else "",
            "tasks": member.account.nr_tasks,
            "tasks_peak": member.account.nr_tasks_peak,
            "memcg": {"path": member.account.path, **member.account.counters},
            "refusals": member.account.refusals(),
            "not_emulated": [
                {
                    "place": str(one.assignment.place),
                    "key": f"{one.assignment.section}.{one.assignment.key}",
                    "value": one.assignment.value,
                    "handling": one.handling.value,
                    "why": one.why,
                }
                for one in member.unit.not_emulated()
            ],
        }

    def report(self) -> dict[str, Any]:
        """Give the report of the whole run, JSON-ready."""
        return {
            "version": REPORT_VERSION,
            "kernel": self.harness.kernel,
            "isolation": self.harness.isolation,
            "seconds": round(self.seconds, 3),
            "held": self.held,
            "assumed": self.plan.assumed,
            "units": [self.describe(name) for name in self.plan.in_order()],
        }
