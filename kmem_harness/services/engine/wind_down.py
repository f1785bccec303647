"""Stop what is left of an activation, by command and by signal, as far as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.engine.steps import StepFailedError, Steps
from kmem_harness.services.engine.verdicts import shall_restart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmem_harness.services.unitfile.readers import ExecCommand

__all__ = ["WindDown"]


class WindDown(Steps):
    """The end of one activation."""

    async def _wind_down(self, *, run_stop: bool, first: str) -> None:
        """Stop what is left, by command and by signal, as far as it takes."""
        settings = self._settings
        if run_stop and settings.exec_stop:
            self._owner.enter(State.STOP)
            await self._stop_commands(settings.exec_stop)
        if first == "abort":
            await self._end(State.STOP_WATCHDOG, settings.watchdog_signal, settings.abort_seconds)
        elif first == "kill":
            await self._end(State.STOP_SIGKILL, settings.final_kill_signal, settings.timeout_stop)
        number = settings.kill_signal
        if not self._stop_asked and shall_restart(settings, self.result, self.main_ending):
            number = settings.restart_kill_signal or number
        await self._end(State.STOP_SIGTERM, number, settings.timeout_stop)
        if settings.exec_stop_post:
            self._owner.enter(State.STOP_POST)
            await self._stop_commands(settings.exec_stop_post)
        if settings.kill_mode == "control-group":
            await self._end(State.FINAL_SIGTERM, number, settings.timeout_stop)

    async def _stop_commands(self, commands: Sequence[ExecCommand]) -> None:
        try:
            for command in commands:
                await self._stop_command(command)
        except StepFailedError as failure:
            self._fail(failure.result)
        except OSError as error:
            self._cannot_start(error)

    async def _stop_command(self, command: ExecCommand) -> None:
        process = await self._spawn(command)
        seconds = self._settings.timeout_stop
        if not await self._until(lambda: process.ending, seconds, interruptible=False):
            raise StepFailedError(Result.TIMEOUT)
        self._check(process)

    async def _end(self, state: State, number: int, seconds: float) -> None:
        """Send a signal to whom KillMode= says, and wait for them; then kill them."""
        settings = self._settings
        final = state is State.FINAL_SIGTERM
        if self._are_gone(final=final) or settings.kill_mode == "none":
            return
        self._owner.enter(state)
        await self._send(number, everyone=settings.kill_mode == "control-group")
        if await self._gone_within(seconds, final=final):
            return
        self._owner.say(f"{state.value} timed out")
        self._fail(Result.TIMEOUT)
        if not settings.send_sigkill or state is State.STOP_SIGKILL:
            return
        if settings.stop_failure_mode == "abort" and state is not State.STOP_WATCHDOG:
            self._owner.enter(State.STOP_WATCHDOG)
            await self._send(settings.watchdog_signal, everyone=True)
            if await self._gone_within(settings.abort_seconds, final=final):
                return
        self._owner.enter(State.FINAL_SIGKILL if final else State.STOP_SIGKILL)
        await self._send(settings.final_kill_signal, everyone=settings.kill_mode != "process")
        await self._gone_within(seconds, final=final)

    async def _gone_within(self, seconds: float, *, final: bool) -> bool:
        return await self._until(lambda: self._are_gone(final=final), seconds, interruptible=False)
