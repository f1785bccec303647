"""Stop what is left of an activation, by command and by signal, as far as it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.engine.steps import StepFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmem_harness.services.engine.steps import Steps
    from kmem_harness.services.unitfile.readers import ExecCommand

__all__ = ["wind_down"]


async def wind_down(steps: Steps, *, run_stop: bool, first: str) -> None:
    """Stop what is left. *first* says whether the first signal ends, dumps core ("abort"), or kills."""
    settings = steps.settings
    if run_stop and settings.exec_stop:
        steps.owner.enter(State.STOP)
        await _run_commands(steps, settings.exec_stop)
    if first == "abort":
        await _end(steps, State.STOP_WATCHDOG, settings.watchdog_signal, settings.abort_seconds)
    elif first == "kill":
        await _end(steps, State.STOP_SIGKILL, settings.final_kill_signal, settings.timeout_stop)
    await _end(steps, State.STOP_SIGTERM, _terminate(steps), settings.timeout_stop)
    if settings.exec_stop_post:
        steps.owner.enter(State.STOP_POST)
        await _run_commands(steps, settings.exec_stop_post)
    if settings.kill_mode == "control-group":
        await _end(steps, State.FINAL_SIGTERM, _terminate(steps), settings.timeout_stop)


def _terminate(steps: Steps) -> int:
    """Choose the signal. Source: state_to_kill_operation: by the job, not by Restart=."""
    settings = steps.settings
    if steps.owner.is_restarted and settings.restart_kill_signal is not None:
        return settings.restart_kill_signal
    return settings.kill_signal


async def _run_commands(steps: Steps, commands: Sequence[ExecCommand]) -> None:
    try:
        for command in commands:
            await _run_command(steps, command)
    except StepFailedError as failure:
        steps.fail(failure.result)
    except OSError as error:
        steps.cannot_start(error)


async def _run_command(steps: Steps, command: ExecCommand) -> None:
    process = await steps.spawn(command)
    if not await steps.until_gone(lambda: process.ending, steps.settings.timeout_stop):
        raise StepFailedError(Result.TIMEOUT)
    steps.check(process)


async def _end(steps: Steps, state: State, number: int, seconds: float) -> None:
    """Send a signal to whom KillMode= says, and wait for them; then kill them."""
    settings, processes = steps.settings, steps.processes
    final = state is State.FINAL_SIGTERM
    if not processes.are_gone(everyone=final):
        await processes.catch_up()
    if processes.are_gone(everyone=final) or settings.kill_mode == "none":
        return
    steps.owner.enter(state)
    everyone = settings.kill_mode == "control-group"
    await processes.send(number, everyone=everyone, hang_up=settings.send_sighup)
    if await _gone_within(steps, seconds, final=final):
        return
    steps.owner.say(f"{state.value} timed out")
    steps.fail(Result.TIMEOUT)
    if not settings.send_sigkill or state is State.STOP_SIGKILL:
        return
    if settings.stop_failure_mode == "abort" and state is not State.STOP_WATCHDOG:
        steps.owner.enter(State.STOP_WATCHDOG)
        await processes.send(settings.watchdog_signal, everyone=True)
        if await _gone_within(steps, settings.abort_seconds, final=final):
            return
    steps.owner.enter(State.FINAL_SIGKILL if final else State.STOP_SIGKILL)
    await processes.send(settings.final_kill_signal, everyone=settings.kill_mode != "process")
    await _gone_within(steps, seconds, final=final)


async def _gone_within(steps: Steps, seconds: float, *, final: bool) -> bool:
    return await steps.until_gone(lambda: steps.processes.are_gone(everyone=final), seconds)
