"""Start and stop units in order, with all that a unit pulls in or takes down with it.

Knows the plan and its members; what makes somebody want a job is the manager's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.engine.states import ACTIVE, Result, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.services.door.journal import Journal
    from kmem_harness.services.engine.member import Member
    from kmem_harness.services.engine.plan import Plan

__all__ = ["Jobs"]


class Jobs:
    """The jobs of one run of units."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        """Prepare for the units of *plan*, none of which is a member yet."""
        self.plan = plan
        self.journal = journal
        self.members: dict[str, Member] = {}
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._nr_restarting = 0
        self._reactions: set[asyncio.Task[Any]] = set()

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
                self.journal.add(
                    name, f"not started: {needed}, which it requires, failed", own=True
                )
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
