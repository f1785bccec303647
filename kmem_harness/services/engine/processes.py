"""Hold the processes of one activation: start them, signal them, take in what becomes of them.

Knows one box and who is in it; what they are started and stopped for is the activation's.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kmem_harness.services.engine.cell import CellLostError
from kmem_harness.services.engine.exec import environment_of, order_for
from kmem_harness.services.engine.verdicts import Ending

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmem_harness.services.engine.cell import Cell
    from kmem_harness.services.engine.clock import Clock
    from kmem_harness.services.engine.states import State
    from kmem_harness.services.unitfile.readers import ExecCommand
    from kmem_harness.services.unitfile.specifiers import Directories
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Owner", "Process", "Processes"]


class Owner(Protocol):
    """The service whose activation this is."""

    unit: Unit
    directories: Directories
    state: State
    status_text: str

    @property
    def is_restarted(self) -> bool:
        """Whether it is stopped only to be started again, by a job."""

    def enter(self, state: State, *, reload_failed: bool = False) -> None:
        """Learn of another state."""

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

    cell: Cell

    def __init__(self, owner: Owner, clock: Clock) -> None:
        """Prepare; :attr:`cell` is given before the first one is started."""
        self.main: Process | None = None
        self.known: dict[int, Process] = {}
        self.nobody_left = True
        self._owner = owner
        self._clock = clock

    @property
    def main_pid(self) -> int:
        """The main process, as the box numbers it; 0 without one."""
        return self.main.pid if self.main is not None and self.main.ending is None else 0

    async def spawn(
        self, command: ExecCommand, variables: Mapping[str, str], pid_variables: Sequence[str]
    ) -> Process:
        """Start a command; *pid_variables* are those that hold its own pid.

        Raises: OSError, CellLostError.
        """
        environment = environment_of(self._owner.unit, self._owner.directories, variables)
        order = order_for(self._owner.unit, command, environment)
        were_left, self.nobody_left = self.nobody_left, False
        try:
            answer = await self.cell.ask("spawn", **order, pid_variables=list(pid_variables))
        except OSError:  # nobody was started, and nobody's end will be told
            self.nobody_left = were_left
            raise
        pid = answer["pid"]
        process = self.known.setdefault(pid, Process(pid))  # its end may be known already
        process.ignore_failure = command.ignore_failure
        return process

    async def adopt(self, pid: int) -> None:
        """Take a process that was not started by us for the main one."""
        main = self.known.setdefault(pid, Process(pid))
        main.executed = True
        found = await self.cell.ask("watch", pid=pid)
        if not found["alive"] and main.ending is None:
            main.ending = _ending(found)
        self.main = main
        self._clock.ring()

    async def send(self, number: int, *, everyone: bool, hang_up: bool = False) -> None:
        """Send a signal to all or to those that are waited for; *hang_up* sends SIGHUP, too."""
        targets: dict[str, Any] = {}
        if not everyone:
            alive = [one.pid for one in self.known.values() if one.ending is None]
            if not alive and self.main is not None:
                return
            targets = {"pids": alive} if alive else {}
        await self.cell.ask("signal", number=number, **targets)
        if number not in (signal.SIGKILL, signal.SIGCONT):
            await self.cell.ask("signal", number=int(signal.SIGCONT), **targets)
            if hang_up:
                await self.cell.ask("signal", number=int(signal.SIGHUP), **targets)

    def are_gone(self, *, everyone: bool) -> bool:
        """Say whether those that are waited for have ended: all, or the ones started by us."""
        if everyone or self.main is None:
            return self.nobody_left
        return self.nobody_left or all(one.ending for one in self.known.values())

    async def catch_up(self) -> None:
        """Have all that has happened in the box told: ends are told one by one, and then "empty"."""
        await self.cell.ask("list")

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in what became of a process."""
        kind = event["event"]
        if kind == "empty":
            self.nobody_left = True
        elif kind in ("executed", "failed", "exited"):
            process = self.known.setdefault(event["pid"], Process(event["pid"]))
            if kind == "executed":
                process.executed = True
            elif kind == "exited":
                process.ending = _ending(event)
            else:
                self._owner.say(f"a process failed at step {event['step']}: {event['reason']}")
        self._clock.ring()

    def check_cell(self) -> None:
        """Raise if the box has ended: CellLostError."""
        if self.cell.lost:
            raise CellLostError("its box has ended")


def _ending(facts: Mapping[str, Any]) -> Ending:
    return Ending(facts.get("code"), facts.get("signal"), bool(facts.get("core")))
