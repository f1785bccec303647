"""Run the command lines of a unit in turn, as patiently as it says; judge how each ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.services.engine.notify import Notified
from kmem_harness.services.engine.states import Result
from kmem_harness.services.engine.verdicts import Ending, judge

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


class Steps(Notified):
    """What is done in one activation, a command at a time, and what breaks that off."""

    def __init__(self, owner: Owner, notify: str) -> None:
        """Prepare; *notify* is the path of its sd_notify socket, or empty."""
        super().__init__(owner, notify)
        self._stop_asked = False
        self._out_of_memory = False

    def ask_to_stop(self) -> None:
        """Have it wind down."""
        self._stop_asked = True
        self._news.set()

    def out_of_memory(self) -> None:
        """Learn that a memory limit refused a call: the kernel would have killed a process."""
        self._out_of_memory = True
        self._news.set()

    async def _in_turn(self, commands: Sequence[ExecCommand]) -> None:
        """Run command lines one after the other; the first that fails is the last."""
        for command in commands:
            self._check(await self._to_the_end(command))

    async def _to_the_end(self, command: ExecCommand) -> Process:
        process = await self._spawn(command)
        await self._patiently(lambda: process.ending)
        return process

    def _check(self, process: Process) -> None:
        """Raise if an ended process did not end well."""
        result = judge(process.ending or Ending(code=0), self._settings)
        if result is not Result.SUCCESS and not process.ignore_failure:
            raise StepFailedError(result)

    def _check_main(self) -> None:
        if self._main is not None:
            self.main_ending = self._main.ending
            self._check(self._main)

    async def _patiently(self, happened: Callable[[], Any]) -> None:
        """Wait as TimeoutStartSec= says. Raises: StepFailedError at its end."""
        if not await self._until(happened, self._settings.start_seconds):
            self._owner.say(f"{self._owner.state.value} timed out")
            raise self._start_timeout()

    def _start_timeout(self) -> StepFailedError:
        return StepFailedError(Result.TIMEOUT, self._settings.start_failure_mode)

    def _interrupt(self) -> None:
        if self._stop_asked:
            raise StopAskedError
        self._obey_oom_policy()

    def _obey_oom_policy(self) -> None:
        if not self._out_of_memory:
            return
        self._out_of_memory = False
        policy = self._settings.oom_policy
        self._owner.say(f"out of memory: its MemoryMax= or a slice's was met; OOMPolicy={policy}")
        if policy != "continue":
            raise StepFailedError(Result.OOM_KILL, "kill" if policy == "kill" else "terminate")

    def _cannot_start(self, error: OSError) -> None:
        self._owner.say(f"a process cannot be started: {error}")
        self._fail(Result.RESOURCES)

    def _fail(self, result: Result) -> None:
        """Remember the first thing that went wrong."""
        if self.result is Result.SUCCESS:
            self.result = result
