"""Hold the processes of one activation: start them, signal them, wait for what becomes of them.

Knows one box and who is in it; what they are started and stopped for is the activation's.
"""

from __future__ import annotations

import asyncio
import math
import signal
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kmem_harness.services.engine.cell import CellLostError
from kmem_harness.services.engine.exec import environment_of, order_for
from kmem_harness.services.engine.states import Result
from kmem_harness.services.engine.verdicts import Ending
from kmem_harness.services.unitfile.values import signal_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.services.engine.cell import Cell
    from kmem_harness.services.engine.states import State
    from kmem_harness.services.unitfile.readers import ExecCommand
    from kmem_harness.services.unitfile.specifiers import Directories
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Owner", "Process", "Processes", "now"]


class Owner(Protocol):
    """The service whose activation this is."""

    unit: Unit
    directories: Directories
    state: State
    status_text: str

    def enter(self, state: State) -> None:
        """Learn of another state."""

    def started(self) -> None:
        """Learn that the service is active: its start job is done."""

    def say(self, text: str) -> None:
        """Tell something about the service."""


@dataclass
class Process:
    """A process that is waited for."""

    pid: int
    ignore_failure: bool = False
    executed: bool = False
    ending: Ending | None = None


class Processes:
    """The processes of one activation of a service."""

    def __init__(self, owner: Owner, notify: str) -> None:
        """Prepare; *notify* is the path of its sd_notify socket, or empty."""
        assert owner.unit.service is not None  # noqa: S101 - only services are activated
        self.result = Result.SUCCESS
        #: How the main process ended.
        self.main_ending: Ending | None = None
        self._owner = owner
        self._settings = owner.unit.service
        self._notify = notify
        self._cell: Cell
        self._main: Process | None = None
        self._processes: dict[int, Process] = {}
        self._empty = True
        self._news = asyncio.Event()
        self._deadline = math.inf
        self._watchdog = self._settings.watchdog
        self._invocation = uuid.uuid4().hex

    @property
    def main_pid(self) -> int:
        """The main process, as the box numbers it; 0 without one."""
        alive = self._main is not None and self._main.ending is None
        return self._main.pid if alive and self._main is not None else 0

    async def _spawn(self, command: ExecCommand, *, main: bool = False) -> Process:
        more, pid_variables = self._variables(main=main)
        environment = environment_of(self._owner.unit, self._owner.directories, more)
        order = order_for(self._owner.unit, command, environment)
        self._empty = False
        pid = (await self._cell.ask("spawn", **order, pid_variables=pid_variables))["pid"]
        process = self._processes.setdefault(pid, Process(pid))  # its end may be known already
        process.ignore_failure = command.ignore_failure
        return process

    def _variables(self, *, main: bool) -> tuple[dict[str, str], list[str]]:
        """Give the variables of systemd.exec(5) that depend on how things stand.

        The second list names those that hold the pid of the process itself.
        """
        more = {"INVOCATION_ID": self._invocation}
        pids = ["SYSTEMD_EXEC_PID"]
        if self._notify:
            more["NOTIFY_SOCKET"] = self._notify
        if self._watchdog < math.inf:
            more["WATCHDOG_USEC"] = str(int(self._watchdog * 1e6))
            pids += ["WATCHDOG_PID"] if main else []
        if not main and self.main_pid:
            more["MAINPID"] = str(self.main_pid)
        if self._owner.state.active == "deactivating":
            more["SERVICE_RESULT"] = self.result.value
            ending = self.main_ending or (self._main and self._main.ending)
            if ending and ending.signal is None:
                more |= {"EXIT_CODE": "exited", "EXIT_STATUS": str(ending.code)}
            elif ending:
                killed = "dumped" if ending.core else "killed"
                more |= {"EXIT_CODE": killed, "EXIT_STATUS": signal_name(ending.signal or 0)}
        return more, pids

    async def _adopt(self, pid: int) -> None:
        """Take a process that was not started by us for the main one."""
        main = self._processes.setdefault(pid, Process(pid))
        main.executed = True
        found = await self._cell.ask("watch", pid=pid)
        if not found["alive"] and main.ending is None:
            main.ending = _ending(found)
        self._main = main
        self._news.set()

    async def _send(self, number: int, *, everyone: bool) -> None:
        targets: dict[str, Any] = {}
        if not everyone:
            alive = [one.pid for one in self._processes.values() if one.ending is None]
            if not alive and self._main is not None:
                return
            targets = {"pids": alive} if alive else {}
        await self._cell.ask("signal", number=number, **targets)
        if number not in (signal.SIGKILL, signal.SIGCONT):
            await self._cell.ask("signal", number=int(signal.SIGCONT), **targets)
            if self._settings.send_sighup:
                await self._cell.ask("signal", number=int(signal.SIGHUP), **targets)

    def _are_gone(self, *, final: bool) -> bool:
        """Say whether those that are waited for have ended: at last all, before that the main one."""
        if final or self._main is None:
            return self._empty
        return self._empty or all(one.ending for one in self._processes.values())

    def _has_ended(self, process: Process | None) -> bool:
        return process is not None and process.ending is not None

    async def _until(
        self, happened: Callable[[], Any], seconds: float, *, interruptible: bool = True
    ) -> bool:
        """Wait until *happened*; false after *seconds*, which EXTEND_TIMEOUT_USEC= can put off.

        Raises: CellLostError; and if *interruptible* what :meth:`_interrupt` raises.
        """
        self._deadline = now() + seconds
        while not happened():
            if self._cell.lost:
                raise CellLostError("its box has ended")
            if interruptible:
                self._interrupt()
            left = self._deadline - now()
            if left <= 0:
                return False
            self._news.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), None if left == math.inf else left)
        return True

    def _take(self, event: dict[str, Any]) -> None:
        """Take in what became of a process."""
        kind = event["event"]
        if kind == "empty":
            self._empty = True
        elif kind in ("executed", "failed", "exited"):
            process = self._processes.setdefault(event["pid"], Process(event["pid"]))
            if kind == "executed":
                process.executed = True
            elif kind == "exited":
                process.ending = _ending(event)
            else:
                self._owner.say(f"a process failed at step {event['step']}: {event['reason']}")
        self._news.set()

    def _interrupt(self) -> None:
        """Raise what breaks off a wait, if there is something."""


def now() -> float:
    """Give the event loop's time. Units: seconds."""
    return asyncio.get_running_loop().time()


def _ending(facts: dict[str, Any]) -> Ending:
    return Ending(facts.get("code"), facts.get("signal"), bool(facts.get("core")))
