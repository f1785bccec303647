"""Run the command lines of a unit in turn, as patiently as it says; judge how each ended.

Holds how an activation has gone so far, and what breaks it off.
"""

from __future__ import annotations

import math
import uuid
from typing import TYPE_CHECKING, Any

from kmem_harness.services.engine.clock import Clock
from kmem_harness.services.engine.notify import Notifications
from kmem_harness.services.engine.processes import Processes
from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.engine.verdicts import Ending, judge
from kmem_harness.services.unitfile.values import signal_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.services.engine.processes import Owner, Process
    from kmem_harness.services.unitfile.readers import ExecCommand

__all__ = ["StepFailedError", "Steps", "StopAskedError"]


class StopAskedError(Exception):
    """Somebody wants the service stopped."""


class StepFailedError(Exception):
    """A step did not go well; *first* says whether the first signal ends, dumps core, or kills."""

    def __init__(self, result: Result, first: str = "terminate") -> None:
        """Fail with *result*."""
        super().__init__(result.value)
        self.result = result
        self.first = first


class Steps:
    """What is done in one activation, a command at a time."""

    def __init__(self, owner: Owner, notify: str) -> None:
        """Prepare; *notify* is the path of its sd_notify socket, or empty."""
        assert owner.unit.service is not None  # noqa: S101 - only services are activated
        self.owner = owner
        self.settings = owner.unit.service
        self.clock = Clock()
        self.processes = Processes(owner, self.clock)
        self.notifications = Notifications(owner, self.processes, self.clock)
        self.result = Result.SUCCESS
        #: How the main process ended.
        self.main_ending: Ending | None = None
        self.stop_asked = False
        self.out_of_memory = False
        self._notify = notify
        self._invocation = uuid.uuid4().hex

    async def in_turn(self, commands: Sequence[ExecCommand]) -> None:
        """Run command lines one after the other; the first that fails is the last."""
        for command in commands:
            self.check(await self.to_the_end(command))

    async def to_the_end(self, command: ExecCommand) -> Process:
        """Run one command line."""
        process = await self.spawn(command)
        await self.patiently(lambda: process.ending)
        return process

    async def spawn(self, command: ExecCommand, *, main: bool = False) -> Process:
        """Start a command line with the variables of systemd.exec(5) that depend on how things stand."""
        variables, own = {"INVOCATION_ID": self._invocation}, ["SYSTEMD_EXEC_PID"]
        if self._notify:
            variables["NOTIFY_SOCKET"] = self._notify
        if self.notifications.watchdog < math.inf:
            variables["WATCHDOG_USEC"] = str(int(self.notifications.watchdog * 1e6))
            own += ["WATCHDOG_PID"] if main else []
        if not main and self.processes.main_pid:
            variables["MAINPID"] = str(self.processes.main_pid)
        if self.owner.state.active == "deactivating":
            variables |= self._how_it_ended()
        return await self.processes.spawn(command, variables, own)

    def _how_it_ended(self) -> dict[str, str]:
        found = {"SERVICE_RESULT": self.result.value}
        main = self.processes.main
        ending = self.main_ending or (main and main.ending)
        if ending and ending.signal is None:
            found |= {"EXIT_CODE": "exited", "EXIT_STATUS": str(ending.code)}
        elif ending:
            killed = "dumped" if ending.core else "killed"
            found |= {"EXIT_CODE": killed, "EXIT_STATUS": signal_name(ending.signal or 0)}
        return found

    def enter(self, state: State) -> None:
        """Have the service be in another state on its way up. Raises: StopAskedError."""
        if self.stop_asked:  # or the stop would seem not to have been heard
            raise StopAskedError
        self.owner.enter(state)

    def check(self, process: Process) -> None:
        """Raise if an ended process did not end well: StepFailedError."""
        result = judge(process.ending or Ending(code=0), self.settings)
        if result is not Result.SUCCESS and not process.ignore_failure:
            raise StepFailedError(result)

    def check_main(self) -> None:
        """Raise if the main process did not end well: StepFailedError."""
        if self.processes.main is not None:
            self.main_ending = self.processes.main.ending
            self.check(self.processes.main)

    async def patiently(self, happened: Callable[[], Any]) -> None:
        """Wait as TimeoutStartSec= says. Raises: StepFailedError at its end."""
        if not await self.until(happened, self.settings.start_seconds):
            self.owner.say(f"{self.owner.state.value} timed out")
            raise self.start_timeout()

    def start_timeout(self) -> StepFailedError:
        """Make the failure of a start that takes too long."""
        return StepFailedError(Result.TIMEOUT, self.settings.start_failure_mode)

    async def until(self, happened: Callable[[], Any], seconds: float) -> bool:
        """Wait until *happened*; false after *seconds*.

        Raises: CellLostError, StopAskedError, StepFailedError.
        """
        return await self.clock.until(happened, seconds, self._interrupt)

    async def until_gone(self, happened: Callable[[], Any], seconds: float) -> bool:
        """Wait as :meth:`until`, and let nothing but a lost box break it off: CellLostError."""
        return await self.clock.until(happened, seconds, self.processes.check_cell)

    def _interrupt(self) -> None:
        self.processes.check_cell()
        if self.stop_asked:
            raise StopAskedError
        if not self.out_of_memory:
            return
        self.out_of_memory = False
        policy = self.settings.oom_policy
        self.owner.say(f"out of memory: its MemoryMax= or a slice's was met; OOMPolicy={policy}")
        if policy != "continue":
            raise StepFailedError(Result.OOM_KILL, "kill" if policy == "kill" else "terminate")

    def cannot_start(self, error: OSError) -> None:
        """Fail for want of something that a new process needs."""
        self.owner.say(f"a process cannot be started: {error}")
        self.fail(Result.RESOURCES)

    def fail(self, result: Result) -> None:
        """Remember the first thing that went wrong."""
        if self.result is Result.SUCCESS:
            self.result = result
