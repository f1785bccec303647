"""See one activation of a service through: start it, watch it, reload it, wind it down.

Knows one box and the processes in it. Whether there is a next activation is the service's to say.
Source for what follows what: service.c of systemd 252.
"""

from __future__ import annotations

import math
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.services.engine.cell import CellLostError
from kmem_harness.services.engine.clock import now
from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.engine.steps import StepFailedError, Steps, StopAskedError
from kmem_harness.services.engine.wind_down import wind_down

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.services.engine.cell import Cell
    from kmem_harness.services.engine.processes import Owner, Process
    from kmem_harness.services.engine.verdicts import Ending

__all__ = ["Activation"]

_PID_FILE_SECONDS = 0.02
#: An exit status of ``ExecCondition=`` beyond this is a failure, up to it a "no".
_LAST_NO = 254


class Activation:
    """One run of a service's processes."""

    def __init__(self, owner: Owner, notify: str) -> None:
        """Prepare; *notify* is the path of its sd_notify socket, or empty."""
        self._steps = Steps(owner, notify)
        self._owner = owner
        self._settings = self._steps.settings
        self._processes = self._steps.processes
        self._notifications = self._steps.notifications
        #: Whether the box ended under our hands.
        self.lost = False
        self._reload_asked = False
        self._reloading = False

    @property
    def result(self) -> Result:
        """How it has gone so far."""
        return self._steps.result

    @property
    def main_ending(self) -> Ending | None:
        """How the main process ended."""
        return self._steps.main_ending

    @property
    def main_pid(self) -> int:
        """The main process, as the box numbers it; 0 without one."""
        return self._processes.main_pid

    # -- what it is told -------------------------------------------------------------------

    def event(self, event: Mapping[str, Any]) -> None:
        """Take one event of the box."""
        if event["event"] == "notify":
            self._notifications.take(event["pid"], event["text"])
        self._processes.take(event)

    def ask_to_stop(self) -> None:
        """Have it wind down."""
        self._steps.stop_asked = True
        self._steps.clock.ring()

    def ask_to_reload(self) -> None:
        """Have it read its configuration again."""
        self._reload_asked = True
        self._steps.clock.ring()

    def out_of_memory(self) -> None:
        """Learn that a memory limit refused a call: the kernel would have killed a process."""
        self._steps.out_of_memory = True
        self._steps.clock.ring()

    # -- all of it -------------------------------------------------------------------------

    async def run(self, cell: Cell) -> None:
        """See it through in *cell*, to the end of what has to be waited for."""
        steps = self._steps
        self._processes.cell = cell
        started, first = False, "terminate"
        try:
            try:
                await self._start_up()
                started = True
                await self._serve()
            except StopAskedError:
                started = started and not self._reloading
            except StepFailedError as failure:
                steps.fail(failure.result)
                first = failure.first
            except OSError as error:
                steps.cannot_start(error)
            run_stop = started and steps.result is Result.SUCCESS
            await wind_down(steps, run_stop=run_stop, first=first)
        except CellLostError:
            self._owner.say("its box ended: the program in there was killed, or the controller")
            steps.fail(Result.SIGNAL)
            self.lost = True
        finally:
            if self._processes.main is not None:
                steps.main_ending = self._processes.main.ending

    # -- starting --------------------------------------------------------------------------

    async def _start_up(self) -> None:
        settings, steps = self._settings, self._steps
        steps.enter(State.CONDITION)
        for command in settings.exec_condition:
            process = await steps.to_the_end(command)
            code = process.ending.code if process.ending else None
            if code and code <= _LAST_NO:
                raise StepFailedError(Result.EXEC_CONDITION)
            steps.check(process)
        steps.enter(State.START_PRE)
        await steps.in_turn(settings.exec_start_pre)
        steps.enter(State.START)
        kind = settings.effective_type
        if kind == "oneshot":
            for command in settings.exec_start:
                self._processes.main = await steps.spawn(command, main=True)
                await steps.patiently(self._main_has_ended)
                steps.check_main()
        elif kind == "forking":
            await steps.in_turn(settings.exec_start)
            await self._find_main()
        else:
            self._processes.main = await steps.spawn(settings.exec_start[0], main=True)
            await self._until_started(kind, self._processes.main)
        self._notifications.start_watchdog()
        steps.enter(State.START_POST)
        await steps.in_turn(settings.exec_start_post)

    def _main_has_ended(self) -> bool:
        main = self._processes.main
        return main is not None and main.ending is not None

    async def _until_started(self, kind: str, main: Process) -> None:
        steps = self._steps
        if kind == "exec":
            await steps.patiently(lambda: main.executed or main.ending)
            if not main.executed:
                steps.check_main()
        elif kind in ("notify", "notify-reload"):
            await steps.patiently(lambda: self._notifications.ready or self._main_has_ended())
            if not self._notifications.ready:
                steps.check_main()
                self._owner.say("its main process ended without READY=1")
                raise StepFailedError(Result.PROTOCOL)

    async def _find_main(self) -> None:
        """Find the main process of a daemon that has let go of its parent."""
        steps, processes, pid = self._steps, self._processes, 0
        deadline = now() + self._settings.start_seconds
        while self._settings.pid_file is not None:
            pid = self._read_pid_file()
            if pid:
                break
            if processes.nobody_left:
                self._owner.say("it forked, and nobody is left")
                raise StepFailedError(Result.PROTOCOL)
            left = min(_PID_FILE_SECONDS, deadline - now())
            await steps.until(lambda: processes.nobody_left, left)
            if now() >= deadline:
                self._owner.say(f"no pid was written to {self._settings.pid_file}")
                raise steps.start_timeout()
        if not pid and self._settings.guess_main_pid:
            own = (await processes.cell.ask("list"))["own"]
            pid = own[0] if len(own) == 1 else 0
        if pid:
            await processes.adopt(pid)

    def _read_pid_file(self) -> int:
        path = Path(self._owner.directories.runtime, self._settings.pid_file or "")
        with suppress(OSError, ValueError):
            return int(path.read_text(encoding="ascii"))
        return 0

    # -- running ---------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Watch over an active service until it ends by itself."""
        if self._settings.effective_type != "oneshot":
            self._steps.enter(State.RUNNING)
            await self._watch_over(self._is_over, State.RUNNING)
            self._steps.check_main()
        if self._settings.remain_after_exit:
            self._steps.enter(State.EXITED)
            await self._watch_over(lambda: False, State.EXITED)

    async def _watch_over(self, is_over: Any, state: State) -> None:
        notifications = self._notifications
        end = now() + self._settings.runtime_max
        while not is_over():
            notifications.watchdog_fed = False
            due = notifications.watchdog_due if state is State.RUNNING else math.inf
            if not await self._steps.until(
                lambda: is_over() or self._reload_asked or notifications.watchdog_fed,
                min(end, due) - now(),
            ):
                if due <= end:
                    self._owner.say("watchdog: no WATCHDOG=1 in time")
                    raise StepFailedError(Result.WATCHDOG, "abort")
                self._owner.say("its RuntimeMaxSec= is over")
                raise StepFailedError(Result.TIMEOUT)
            if self._reload_asked and not is_over():
                await self._carry_out_reload(state)

    def _is_over(self) -> bool:
        if self._processes.main is None:
            return self._processes.nobody_left
        return self._main_has_ended()

    async def _carry_out_reload(self, state: State) -> None:
        self._reload_asked, self._reloading = False, True
        self._steps.enter(State.RELOAD)
        self._notifications.ready = False
        failed = ""
        try:
            pid = self._processes.main_pid
            if self._settings.effective_type == "notify-reload" and pid:
                await self._processes.cell.ask("signal", number=int(signal.SIGHUP), pids=[pid])
                await self._steps.patiently(lambda: self._notifications.ready or self._is_over())
            await self._steps.in_turn(self._settings.exec_reload)
        except StepFailedError as failure:
            if failure.result is Result.OOM_KILL:
                raise
            failed = failure.result.value
        except OSError as error:
            failed = error.strerror or str(error)
        self._reloading = False
        if failed:
            self._owner.say(f"its reload failed: {failed}")
        if self._steps.stop_asked:
            raise StopAskedError
        self._owner.enter(state, reload_failed=bool(failed))
