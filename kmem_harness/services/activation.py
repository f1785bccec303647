"""See one activation of a service through: start it, watch it, reload it, wind it down.

Knows one box and the processes in it. Whether there is a next activation is the service's to say.
Source for what follows what: service.c of systemd 252.
"""

from __future__ import annotations

import asyncio
import math
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.services.cell import CellLostError
from kmem_harness.services.processes import Process, Processes, now
from kmem_harness.services.states import Result, State
from kmem_harness.services.verdicts import Ending, judge, shall_restart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.services.cell import Cell
    from kmem_harness.services.processes import Owner
    from kmem_harness.services.readers import ExecCommand
    from kmem_harness.services.unit import Unit

__all__ = ["Activation", "notify_access"]

_PID_FILE_SECONDS = 0.02
#: An exit status of ``ExecCondition=`` beyond this is a failure, up to it a "no".
_LAST_NO = 254


class _StopAskedError(Exception):
    """Somebody wants the service stopped."""


class _FailedError(Exception):
    def __init__(self, result: Result, first: str = "terminate") -> None:
        super().__init__(result.value)
        self.result = result
        #: Whether the first signal asks to end, to dump core, or kills.
        self.first = first


def notify_access(unit: Unit) -> str:
    """Say who may send sd_notify(3) messages, with the default of the type."""
    service = unit.service
    assert service is not None  # noqa: S101 - only services are activated
    if service.notify_access is not None:
        return service.notify_access
    notifies = service.effective_type in ("notify", "notify-reload")
    return "main" if notifies or service.watchdog < math.inf else "none"


class Activation(Processes):
    """One run of a service's processes."""

    def __init__(self, owner: Owner, notify: str) -> None:
        """Prepare; *notify* is the path of its sd_notify socket, or empty."""
        super().__init__(owner, notify)
        #: Whether the box ended under our hands.
        self.lost = False
        self._stop_asked = False
        self._reload: asyncio.Future[bool] | None = None
        self._out_of_memory = False
        self._watchdog_due = math.inf
        self._watchdog_fed = False
        self._ready = False

    # -- what others want ------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Have it wind down."""
        self._stop_asked = True
        self._news.set()

    def ask_to_reload(self) -> asyncio.Future[bool]:
        """Have it read its configuration again; the answer is whether that went well."""
        if self._reload is None:
            self._reload = asyncio.get_running_loop().create_future()
            self._news.set()
        return self._reload

    def out_of_memory(self) -> None:
        """Learn that a memory limit refused a call: the kernel would have killed a process."""
        self._out_of_memory = True
        self._news.set()

    async def run(self, cell: Cell) -> None:
        """See it through in *cell*, to the end of what has to be waited for."""
        self._cell = cell
        started, first = False, "terminate"
        try:
            try:
                await self._start_up()
                started = True
                await self._serve()
            except _StopAskedError:
                pass
            except _FailedError as failure:
                self._fail(failure.result)
                first = failure.first
            except OSError as error:
                self._cannot_start(error)
            if self.result is Result.SUCCESS and not self._stop_asked:
                self._owner.started()  # a oneshot is done with its last command
            await self._wind_down(run_stop=started and self.result is Result.SUCCESS, first=first)
        except CellLostError:
            self._owner.say("its box ended: the program in there was killed, or the controller")
            self._fail(Result.SIGNAL)
            self.lost = True
        finally:
            if self._main is not None:
                self.main_ending = self._main.ending
            self._finish_reload(succeeded=False)

    # -- starting --------------------------------------------------------------------------

    async def _start_up(self) -> None:
        settings = self._settings
        self._owner.enter(State.CONDITION)
        for command in settings.exec_condition:
            process = await self._to_the_end(command)
            code = process.ending.code if process.ending else None
            if code and code <= _LAST_NO:
                raise _FailedError(Result.EXEC_CONDITION)
            self._check(process)
        self._owner.enter(State.START_PRE)
        await self._in_turn(settings.exec_start_pre)
        self._owner.enter(State.START)
        kind = settings.effective_type
        if kind == "oneshot":
            for command in settings.exec_start:
                self._main = await self._spawn(command, main=True)
                await self._patiently(lambda: self._has_ended(self._main))
                self._check_main()
        elif kind == "forking":
            await self._in_turn(settings.exec_start)
            await self._find_main()
        else:
            self._main = await self._spawn(settings.exec_start[0], main=True)
            await self._until_started(kind, self._main)
        self._watchdog_due = now() + self._watchdog
        self._owner.enter(State.START_POST)
        await self._in_turn(settings.exec_start_post)

    async def _until_started(self, kind: str, main: Process) -> None:
        if kind == "exec":
            await self._patiently(lambda: main.executed or main.ending)
            if not main.executed:
                self._check_main()
        elif kind in ("notify", "notify-reload"):
            await self._patiently(lambda: self._ready or self._has_ended(self._main))
            if not self._ready:
                self._check_main()
                self._owner.say("its main process ended without READY=1")
                raise _FailedError(Result.PROTOCOL)

    async def _find_main(self) -> None:
        """Find the main process of a daemon that has let go of its parent."""
        pid = 0
        deadline = now() + self._settings.start_seconds
        while self._settings.pid_file is not None:
            pid = self._read_pid_file()
            if pid:
                break
            if self._empty:
                self._owner.say("it forked, and nobody is left")
                raise _FailedError(Result.PROTOCOL)
            await self._until(lambda: self._empty, min(_PID_FILE_SECONDS, deadline - now()))
            if now() >= deadline:
                self._owner.say(f"no pid was written to {self._settings.pid_file}")
                raise self._start_timeout()
        if not pid and self._settings.guess_main_pid:
            own = (await self._cell.ask("list"))["own"]
            pid = own[0] if len(own) == 1 else 0
        if pid:
            await self._adopt(pid)

    def _read_pid_file(self) -> int:
        path = Path(self._owner.directories.runtime, self._settings.pid_file or "")
        with suppress(OSError, ValueError):
            return int(path.read_text(encoding="ascii"))
        return 0

    # -- running ---------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Watch over an active service until it ends by itself."""
        if self._settings.effective_type != "oneshot":
            self._owner.enter(State.RUNNING)
            self._owner.started()
            await self._watch_over()
            if self._main is not None:
                self._check_main()
        if self._settings.remain_after_exit:
            self._owner.enter(State.EXITED)
            self._owner.started()
            await self._until(lambda: False, math.inf)

    async def _watch_over(self) -> None:
        end = now() + self._settings.runtime_max
        while not self._is_over():
            self._watchdog_fed = False
            due = self._watchdog_due
            if not await self._until(self._has_news, min(end, due) - now()):
                if due <= end:
                    self._owner.say("watchdog: no WATCHDOG=1 in time")
                    raise _FailedError(Result.WATCHDOG, "abort")
                self._owner.say("its RuntimeMaxSec= is over")
                raise _FailedError(Result.TIMEOUT)
            if self._reload is not None and not self._is_over():
                await self._carry_out_reload()

    def _has_news(self) -> bool:
        return self._is_over() or self._reload is not None or self._watchdog_fed

    def _is_over(self) -> bool:
        return self._empty if self._main is None else self._main.ending is not None

    async def _carry_out_reload(self) -> None:
        self._owner.enter(State.RELOAD)
        self._ready = False
        succeeded = False
        try:
            if self._settings.effective_type == "notify-reload" and self.main_pid:
                await self._cell.ask("signal", number=int(signal.SIGHUP), pids=[self.main_pid])
                await self._patiently(lambda: self._ready or self._is_over())
            await self._in_turn(self._settings.exec_reload)
            succeeded = True
        except _FailedError as failure:
            if failure.result is Result.OOM_KILL:
                raise
            self._owner.say(f"its reload failed: {failure.result.value}")
        except OSError as error:
            self._owner.say(f"its reload failed: {error.strerror}")
        self._finish_reload(succeeded=succeeded)
        self._owner.enter(State.RUNNING)

    def _finish_reload(self, *, succeeded: bool) -> None:
        if self._reload is not None and not self._reload.done():
            self._reload.set_result(succeeded)
        self._reload = None

    # -- stopping --------------------------------------------------------------------------

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
        except _FailedError as failure:
            self._fail(failure.result)
        except OSError as error:
            self._cannot_start(error)

    async def _stop_command(self, command: ExecCommand) -> None:
        process = await self._spawn(command)
        seconds = self._settings.timeout_stop
        if not await self._until(lambda: process.ending, seconds, interruptible=False):
            raise _FailedError(Result.TIMEOUT)
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

    # -- processes -------------------------------------------------------------------------

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
            raise _FailedError(result)

    def _check_main(self) -> None:
        if self._main is not None:
            self.main_ending = self._main.ending
            self._check(self._main)

    async def _patiently(self, happened: Callable[[], Any]) -> None:
        """Wait as TimeoutStartSec= says. Raises: _FailedError at its end."""
        if not await self._until(happened, self._settings.start_seconds):
            self._owner.say(f"{self._owner.state.value} timed out")
            raise self._start_timeout()

    def _start_timeout(self) -> _FailedError:
        return _FailedError(Result.TIMEOUT, self._settings.start_failure_mode)

    def _interrupt(self) -> None:
        if self._stop_asked:
            raise _StopAskedError
        self._obey_oom_policy()

    def _obey_oom_policy(self) -> None:
        if not self._out_of_memory:
            return
        self._out_of_memory = False
        policy = self._settings.oom_policy
        self._owner.say(f"out of memory: its MemoryMax= or a slice's was met; OOMPolicy={policy}")
        if policy != "continue":
            raise _FailedError(Result.OOM_KILL, "kill" if policy == "kill" else "terminate")

    def _cannot_start(self, error: OSError) -> None:
        self._owner.say(f"a process cannot be started: {error}")
        self._fail(Result.RESOURCES)

    def _fail(self, result: Result) -> None:
        """Remember the first thing that went wrong."""
        if self.result is Result.SUCCESS:
            self.result = result

    # -- what the program inside tells -----------------------------------------------------

    def event(self, event: dict[str, Any]) -> None:
        """Take one event of the box."""
        if event["event"] == "notify":
            self._notified(event["pid"], event["text"])
        self._take(event)

    def _notified(self, sender: int, text: str) -> None:
        """Take an sd_notify(3) message, if NotifyAccess= lets its sender say something."""
        access = notify_access(self._owner.unit)
        known = sender in self._processes or not self._processes
        is_main = sender == self.main_pid or (self._main is None and known)
        if access != "all" and not is_main and not (access == "exec" and known):
            self._owner.say(f"sd_notify of process {sender} ignored: NotifyAccess={access}")
            return
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name in _NOTIFICATIONS:
                _NOTIFICATIONS[name](self, value)

    def _notify_ready(self, value: str) -> None:
        self._ready = value == "1"

    def _notify_reloading(self, value: str) -> None:
        self._ready = self._ready and value != "1"

    def _notify_stopping(self, value: str) -> None:
        if value == "1":
            self._owner.status_text = self._owner.status_text or "stopping"

    def _notify_status(self, value: str) -> None:
        self._owner.status_text = value

    def _notify_main_pid(self, value: str) -> None:
        if value.isdigit() and int(value) > 0:
            task = asyncio.ensure_future(self._adopt(int(value)))
            task.add_done_callback(lambda done: done.exception())  # a box that is lost says so

    def _notify_watchdog(self, value: str) -> None:
        self._watchdog_fed = True
        if value == "trigger":
            self._watchdog_due = now()
        elif self._watchdog < math.inf:
            self._watchdog_due = now() + self._watchdog

    def _notify_watchdog_usec(self, value: str) -> None:
        if value.isdigit():
            self._watchdog = int(value) / 1e6 or math.inf
            self._notify_watchdog("1")

    def _notify_extend(self, value: str) -> None:
        if value.isdigit():
            self._deadline = max(self._deadline, now() + int(value) / 1e6)


_NOTIFICATIONS: dict[str, Callable[[Activation, str], None]] = {
    "READY": Activation._notify_ready,  # noqa: SLF001 - a table of this class's own methods
    "RELOADING": Activation._notify_reloading,  # noqa: SLF001
    "STOPPING": Activation._notify_stopping,  # noqa: SLF001
    "STATUS": Activation._notify_status,  # noqa: SLF001
    "MAINPID": Activation._notify_main_pid,  # noqa: SLF001
    "WATCHDOG": Activation._notify_watchdog,  # noqa: SLF001
    "WATCHDOG_USEC": Activation._notify_watchdog_usec,  # noqa: SLF001
    "EXTEND_TIMEOUT_USEC": Activation._notify_extend,  # noqa: SLF001
}
