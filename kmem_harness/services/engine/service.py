"""Take one service from activation to activation: jobs on it, Restart=, and its start limit.

Knows one unit; whom to start before or after whom is the manager's.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.services.engine.activation import Activation
from kmem_harness.services.engine.cell import Cell
from kmem_harness.services.engine.conditions import first_unmet
from kmem_harness.services.engine.exec import make_directories, remove_directories
from kmem_harness.services.engine.lines import Lines
from kmem_harness.services.engine.notify import notify_access
from kmem_harness.services.engine.states import ACTIVE, Result, State
from kmem_harness.services.engine.verdicts import Ending, StartLimit, restart_delay, shall_restart
from kmem_harness.services.unitfile.values import NO_LIMIT

if TYPE_CHECKING:
    from kmem_harness.handles import MemcgHandle
    from kmem_harness.harness import Harness
    from kmem_harness.services.unitfile.specifiers import Directories
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Service", "World"]


class World(Protocol):
    """What a service needs of its manager."""

    harness: Harness
    directories: Directories

    def notify_path(self, unit: Unit) -> str:
        """Choose where the service sends its sd_notify messages."""

    def faults_of(self, unit: Unit) -> list[str]:
        """List the fault rules of its box: its own, and those of its slices."""

    def kinds_of(self, unit: Unit) -> list[str]:
        """List the kinds of objects that its box is charged for; none stands for all."""

    def log(self, unit: str, line: str, *, own: bool = False) -> None:
        """Take one line of the service's output, or one *own* line about it."""

    def changed(self, service: Service) -> None:
        """Learn that the service is in another state."""

    def over(self, service: Service, report: dict[str, Any]) -> None:
        """Take the report of an activation that has ended."""


class Service:
    """One service unit."""

    def __init__(self, unit: Unit, memcg: MemcgHandle, world: World) -> None:
        """Run *unit* in *memcg*; nothing is started yet."""
        assert unit.service is not None  # noqa: S101 - the manager makes these of services alone
        self.unit = unit
        self.memcg = memcg
        self.directories = world.directories
        self.state = State.DEAD
        self.result = Result.SUCCESS
        self.nr_restarts = 0
        self.nr_starts = 0
        self.status_text = ""
        self.main_ending: Ending | None = None
        self.cell: Cell | None = None
        self._settings = unit.service
        self._world = world
        self._limit = StartLimit(unit.unit.start_limit_interval, unit.unit.start_limit_burst)
        self._stop_asked = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._job: asyncio.Future[bool] | None = None
        self._activation: Activation | None = None

    @property
    def main_pid(self) -> int:
        """The main process, as its box numbers it; 0 without one."""
        return 0 if self._activation is None else self._activation.main_pid

    @property
    def is_settled(self) -> bool:
        """Whether nothing more happens without a job."""
        return self._life is None or self._life.done()

    # -- jobs ------------------------------------------------------------------------------

    async def start(self) -> bool:
        """Start it; true once it is active, or was skipped by a condition."""
        if self.state in ACTIVE:
            return True
        if self._job is not None and not self._job.done():
            return await asyncio.shield(self._job)
        await self.settled()
        self._stop_asked.clear()
        self._job = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(), name=f"service {self.unit.text}")
        return await asyncio.shield(self._job)

    async def stop(self) -> None:
        """Stop it as its unit says, and have it stay so."""
        if not self.is_settled:
            self._stop_asked.set()
            if self._activation is not None:
                self._activation.ask_to_stop()
        await self.settled()

    async def reload(self) -> bool:
        """Have it read its configuration again; true if that went well."""
        if self._activation is None or self.state not in (State.RUNNING, State.RELOAD):
            return False
        return await self._activation.ask_to_reload()

    async def settled(self) -> None:
        """Wait until nothing more happens without a job."""
        if self._life is not None:
            await asyncio.wait([self._life])

    def out_of_memory(self) -> None:
        """Learn that a memory limit refused it something."""
        if self._activation is not None:
            self._activation.out_of_memory()

    def refuse_job(self, result: Result) -> None:
        """Fail without having been started."""
        self.result = result
        self.enter(State.FAILED)

    # -- what its activation tells ---------------------------------------------------------

    def enter(self, state: State) -> None:
        """Be in another state."""
        if state is not self.state:
            self.state = state
            self._world.changed(self)

    def started(self) -> None:
        """Finish the start job: it is active."""
        self._finish_job(succeeded=True)

    def say(self, text: str) -> None:
        """Tell something about it."""
        self._world.log(self.unit.text, text, own=True)

    # -- its life --------------------------------------------------------------------------

    async def _live(self) -> None:
        """Go from one activation to the next, for as long as Restart= and the limits say so."""
        try:
            while await self._live_once():
                self.nr_restarts += 1
        except BaseException as error:
            self.say(f"cannot go on: {error!r}")
            self.result = Result.RESOURCES
            raise
        finally:
            good = self.result in (Result.SUCCESS, Result.EXEC_CONDITION)
            self.enter(State.DEAD if good else State.FAILED)
            self._finish_job(succeeded=good)

    async def _live_once(self) -> bool:
        """Be active once; say whether to start again."""
        if not self._limit.admits(asyncio.get_running_loop().time()):
            self.say("start request repeated too quickly")
            self.result = Result.START_LIMIT_HIT
            return False
        if not self._may_start():
            return False
        self.nr_starts += 1
        await self._activate()
        again = not self._stop_asked.is_set() and shall_restart(
            self._settings, self.result, self.main_ending
        )
        remove_directories(self._settings, self.directories, restarting=again)
        if not again:
            return False
        self.enter(State.AUTO_RESTART)
        self._finish_job(succeeded=self.result is Result.SUCCESS)
        with suppress(asyncio.TimeoutError):
            delay = restart_delay(self._settings, self.nr_restarts)
            await asyncio.wait_for(self._stop_asked.wait(), delay)
            return False
        return True

    def _may_start(self) -> bool:
        unmet = first_unmet(self.unit.unit.asserts)
        if unmet is not None:
            self.say(f"Assert{unmet.kind}={unmet.argument} does not hold")
            self.result = Result.ASSERT
            return False
        unmet = first_unmet(self.unit.unit.conditions)
        if unmet is not None:
            self.say(f"skipped: Condition{unmet.kind}={unmet.argument} does not hold")
            self.result = Result.SUCCESS
        return unmet is None

    async def _activate(self) -> None:
        """Set up a box, run one activation in it, and take the box down again."""
        self.main_ending = None
        self.status_text = ""
        notify = self._world.notify_path(self.unit) if notify_access(self.unit) != "none" else ""
        tasks = self.unit.limits.tasks_max
        activation = Activation(self, notify)
        try:
            make_directories(self._settings, self.directories)
            self.cell = await Cell.open(
                self._world.harness,
                self.memcg,
                activation.event,
                notify=notify,
                tasks_max=None if tasks == NO_LIMIT else tasks,
                faults=self._world.faults_of(self.unit),
                kinds=self._world.kinds_of(self.unit) or None,
            )
        except (KmemHarnessError, OSError) as error:
            self.say(f"its box cannot be set up: {error}")
            self.result = Result.RESOURCES
            return
        lines = Lines(self.cell.output, lambda line: self._world.log(self.unit.text, line))
        self._activation = activation
        if self._stop_asked.is_set():
            activation.ask_to_stop()
        try:
            await activation.run(self.cell)
        finally:
            self.result, self.main_ending = activation.result, activation.main_ending
            cell, self.cell, self._activation = self.cell, None, None
            report = await cell.close()
            if activation.lost and any(c["errno"] == "OOM" for c in report["refusals"]["cards"]):
                self.say("out of memory: our program in its box was killed for MemoryMax=")
                self.result = Result.OOM_KILL
            lines.close()
            with suppress(FileNotFoundError):
                os.unlink(notify)
            self._world.over(self, report)

    def _finish_job(self, *, succeeded: bool) -> None:
        if self._job is not None and not self._job.done():
            self._job.set_result(succeeded)
