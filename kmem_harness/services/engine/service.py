"""Take one service from activation to activation: what jobs ask of it, Restart=, and its start limit.

Knows one unit; whom to start before or after whom is the jobs'. Source: service.c of systemd 252.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.services.engine.activation import Activation
from kmem_harness.services.engine.cell import Cell
from kmem_harness.services.engine.clock import now
from kmem_harness.services.engine.conditions import first_unmet
from kmem_harness.services.engine.exec import make_directories, remove_directories
from kmem_harness.services.engine.jobs import Pending
from kmem_harness.services.engine.lines import Lines
from kmem_harness.services.engine.notify import notify_access
from kmem_harness.services.engine.rules import JobResult, JobType
from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.engine.verdicts import (
    Ending,
    StartLimit,
    restart_delay,
    shall_restart,
)
from kmem_harness.services.unitfile.values import NO_LIMIT

if TYPE_CHECKING:
    from kmem_harness.handles import MemcgHandle
    from kmem_harness.harness import Harness
    from kmem_harness.services.unitfile.specifiers import Directories
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Service", "World"]

_GOOD = (Result.SUCCESS, Result.EXEC_CONDITION)
#: A job that is queued is asked after so often. Units: seconds.
_AGAIN_SECONDS = 0.1


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

    def queued(self, unit: str) -> JobType | None:
        """Give the job that the unit has."""

    def bound_tasks(self, unit: Unit) -> None:
        """Put what runs in the unit's memcg under the task bounds of its slices, if there are any."""

    def is_bound_above(self, unit: Unit) -> bool:
        """Say whether its slices bound its tasks, together with its own ``TasksMax=``."""

    def start_again(self, unit: str) -> bool:
        """Queue a restart for ``Restart=``; false if that cannot be."""

    def changed(
        self, service: Service, before: State, *, will_restart: bool, reload_failed: bool
    ) -> None:
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
        #: How long the last activation lasted, and whether it ended by itself. Units: seconds.
        self.lasted: float | None = None
        self.ended_by_itself = False
        self._began = 0.0
        self._settings = unit.service
        self._world = world
        self._limit = StartLimit(unit.unit.start_limit_interval, unit.unit.start_limit_burst)
        self._stop_asked = False
        #: Whether the next start is not one of a row of automatic ones.
        self._row_is_over = False
        self._life: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._activation: Activation | None = None

    # -- what jobs ask ---------------------------------------------------------------------

    @property
    def active(self) -> str:
        """Its active state."""
        return self.state.active

    @property
    def main_pid(self) -> int:
        """The main process, as its box numbers it; 0 without one."""
        return 0 if self._activation is None else self._activation.main_pid

    @property
    def is_settled(self) -> bool:
        """Whether nothing more happens without a job."""
        return self.state in (State.DEAD, State.FAILED)

    @property
    def is_restarted(self) -> bool:
        """Whether a job stops it only to start it again."""
        return self._world.queued(self.unit.text) is JobType.RESTART

    @property
    def why_no_reload(self) -> str:
        """Why it cannot be reloaded, or nothing."""
        if self._settings.exec_reload or self._settings.effective_type == "notify-reload":
            return ""
        return "it has no ExecReload=, and is not Type=notify-reload"

    def start(self) -> JobResult | Pending:
        """Begin to start it."""
        if self.active == "activating" and self.state is not State.AUTO_RESTART:
            return Pending.UNDER_WAY
        if self.state not in (State.DEAD, State.FAILED):
            return Pending.AGAIN  # it is stopping; or Restart= starts it soon, and that will count
        if not self._limit.admits(now()):
            self.say("start request repeated too quickly")
            self.result = Result.START_LIMIT_HIT
            self.enter(State.FAILED)
            return JobResult.FAILED
        unmet = first_unmet(self.unit.unit.conditions)
        if unmet is not None:
            self.say(f"skipped: Condition{unmet.kind}={unmet.argument} does not hold")
            return JobResult.DONE
        unmet = first_unmet(self.unit.unit.asserts)
        if unmet is not None:
            self.say(f"Assert{unmet.kind}={unmet.argument} does not hold")
            return JobResult.ASSERT
        if self._row_is_over:
            self.nr_restarts, self._row_is_over = 0, False
        self._stop_asked = False
        self.result = Result.SUCCESS
        self.nr_starts += 1
        self._began, self.lasted = now(), None
        self._life = asyncio.create_task(self._live(), name=f"service {self.unit.text}")
        self.enter(State.CONDITION)
        return Pending.UNDER_WAY

    def stop(self) -> JobResult | Pending:
        """Begin to stop it as its unit says, and have it stay so."""
        self._stop_asked = True
        if self.state is State.AUTO_RESTART:
            self._disarm()
            again = self.is_restarted
            remove_directories(self._settings, self.directories, restarting=again)
            self.enter(State.DEAD, will_restart=again or self.result not in _GOOD)
        elif self._activation is not None:
            self._activation.ask_to_stop()
        return Pending.UNDER_WAY

    def reload(self) -> JobResult | Pending:
        """Begin to have it read its configuration again."""
        if self.state is State.RELOAD:
            return Pending.AGAIN
        if self._activation is None or self.state not in (State.RUNNING, State.EXITED):
            self.say("it cannot be reloaded, for it is not active")
            return JobResult.INVALID
        self._activation.ask_to_reload()
        return Pending.UNDER_WAY

    def reset_failed(self) -> None:
        """Forget that it failed, and how often it was started."""
        self._limit = StartLimit(
            self.unit.unit.start_limit_interval, self.unit.unit.start_limit_burst
        )
        self.nr_restarts = 0
        if self.state is State.FAILED:
            self.result = Result.SUCCESS
            self.enter(State.DEAD)

    def out_of_memory(self) -> None:
        """Learn that a memory limit refused it something."""
        if self._activation is not None:
            self._activation.out_of_memory()

    # -- what its activation tells ---------------------------------------------------------

    def enter(
        self, state: State, *, will_restart: bool = False, reload_failed: bool = False
    ) -> None:
        """Be in another state."""
        before, self.state = self.state, state
        if state is not before:
            self._world.changed(
                self, before, will_restart=will_restart, reload_failed=reload_failed
            )

    def say(self, text: str) -> None:
        """Tell something about it."""
        self._world.log(self.unit.text, text, own=True)

    # -- its life --------------------------------------------------------------------------

    async def _live(self) -> None:
        """Be active once, and say what comes of it."""
        try:
            await self._activate()
        except BaseException as error:
            self.say(f"cannot go on: {error!r}")
            self.result = Result.RESOURCES
            raise
        finally:
            self._over()

    def _over(self) -> None:
        """Be down, for good or until Restart= starts it again."""
        self.lasted, self.ended_by_itself = now() - self._began, not self._stop_asked
        again = not self._stop_asked and shall_restart(
            self._settings, self.result, self.main_ending
        )
        restarting = again or self._world.queued(self.unit.text) in (
            JobType.RESTART,
            JobType.START,
        )
        remove_directories(self._settings, self.directories, restarting=restarting)
        down = State.DEAD if self.result in _GOOD else State.FAILED
        # It is down for a moment in any case: those that are bound to it shall see that.
        self.enter(down, will_restart=again)
        if again:
            self._arm(restart_delay(self._settings, self.nr_restarts))
            self.enter(State.AUTO_RESTART)
        else:
            self._row_is_over = True

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._restart)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _restart(self) -> None:
        """Start it again, as a job, so that it goes as with any other restart."""
        if self._world.queued(self.unit.text) is JobType.STOP:
            self._arm(_AGAIN_SECONDS)
            return
        self.nr_restarts += 1
        if not self._world.start_again(self.unit.text):
            self.result = Result.RESOURCES
            self.enter(State.FAILED)

    async def _activate(self) -> None:
        """Set up a box, run one activation in it, and take the box down again."""
        self.main_ending = None
        self.status_text = ""
        notify = self._world.notify_path(self.unit) if notify_access(self.unit) != "none" else ""
        above = self._world.is_bound_above(self.unit)
        tasks = NO_LIMIT if above else self.unit.limits.tasks_max
        activation = self._activation = Activation(self, notify)
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
            self._activation = None
            self.result = Result.RESOURCES
            return
        if above:
            self._world.bound_tasks(self.unit)
        lines = Lines(self.cell.output, lambda line: self._world.log(self.unit.text, line))
        try:
            await activation.run(self.cell)
        finally:
            self.result, self.main_ending = activation.result, activation.main_ending
            cell, self.cell, self._activation = self.cell, None, None
            report = await cell.close()
            if activation.lost and any(c["errno"] == "OOM" for c in report["refusals"]["cards"]):
                self.say("out of memory: our program in its box was killed for MemoryMax=")
                self.result = Result.OOM_KILL
            elif self._was_killed_for_memory(report):
                self.say("out of memory: its main process was killed for MemoryMax=")
                self.result = Result.OOM_KILL
            lines.close()
            with suppress(FileNotFoundError):
                os.unlink(notify)
            self._world.over(self, report)

    def _was_killed_for_memory(self, report: dict[str, Any]) -> bool:
        """Say whether the main process ended by an OOM kill, before anybody had looked."""
        ending = self.main_ending
        killed = ending is not None and ending.signal == signal.SIGKILL
        by_memory = any(counts.get("memory") for counts in report["refusals"]["by"].values())
        policy = self._settings.oom_policy
        return self.result is Result.SIGNAL and killed and by_memory and policy != "continue"
