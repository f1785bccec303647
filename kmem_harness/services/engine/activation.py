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
from typing import TYPE_CHECKING

from kmem_harness.services.engine.cell import CellLostError
from kmem_harness.services.engine.processes import now
from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.engine.steps import StepFailedError, StopAskedError
from kmem_harness.services.engine.wind_down import WindDown

if TYPE_CHECKING:
    from kmem_harness.services.engine.cell import Cell
    from kmem_harness.services.engine.processes import Owner, Process

__all__ = ["Activation"]

_PID_FILE_SECONDS = 0.02
#: An exit status of ``ExecCondition=`` beyond this is a failure, up to it a "no".
_LAST_NO = 254


class Activation(WindDown):
    """One run of a service's processes."""

    def __init__(self, owner: Owner, notify: str) -> None:
        """Prepare; *notify* is the path of its sd_notify socket, or empty."""
        super().__init__(owner, notify)
        #: Whether the box ended under our hands.
        self.lost = False
        self._reload: asyncio.Future[bool] | None = None

    def ask_to_reload(self) -> asyncio.Future[bool]:
        """Have it read its configuration again; the answer is whether that went well."""
        if self._reload is None:
            self._reload = asyncio.get_running_loop().create_future()
            self._news.set()
        return self._reload

    async def run(self, cell: Cell) -> None:
        """See it through in *cell*, to the end of what has to be waited for."""
        self._cell = cell
        started, first = False, "terminate"
        try:
            try:
                await self._start_up()
                started = True
                await self._serve()
            except StopAskedError:
                pass
            except StepFailedError as failure:
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
                raise StepFailedError(Result.EXEC_CONDITION)
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
                raise StepFailedError(Result.PROTOCOL)

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
                raise StepFailedError(Result.PROTOCOL)
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
                    raise StepFailedError(Result.WATCHDOG, "abort")
                self._owner.say("its RuntimeMaxSec= is over")
                raise StepFailedError(Result.TIMEOUT)
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
        except StepFailedError as failure:
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
