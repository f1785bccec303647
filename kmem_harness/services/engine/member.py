"""Keep one unit of a running plan: its memcg, its limits, its figures, and what it is in."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.owner.client import ControllerDiedError
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.engine.accounts import Account, set_memcg_limit
from kmem_harness.services.engine.conditions import first_unmet
from kmem_harness.services.engine.hints import hint_for
from kmem_harness.services.engine.rules import JobResult
from kmem_harness.services.engine.states import Result, State
from kmem_harness.services.unitfile.names import slice_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.owner.client import Connection
    from kmem_harness.handles import MemcgHandle
    from kmem_harness.harness import Harness
    from kmem_harness.services.engine.service import Service
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Member"]

_MOST_REPORTS = 100


@dataclass
class Member:
    """One unit of a running plan."""

    unit: Unit
    account: Account
    memcg: MemcgHandle | None = None
    service: Service | None = None
    #: Of what is no service.
    own_state: State = State.DEAD
    #: Why its last start came to nothing though the unit itself did not fail.
    refused: Result = Result.SUCCESS
    changed: Callable[[State], None] = field(default=lambda _: None, repr=False)
    #: The reports of the boxes of its activations that are over, the first hundred of them, with
    #: how each went: a box itself is ended by us.
    reports: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @classmethod
    def make(cls, unit: Unit, harness: Harness) -> Member:
        """Make the memcg of a unit, below that of its slice, with its limits.

        Raises: ConfigurationError if it cannot have them.
        """
        if unit.name.type == "target":
            return cls(unit, Account(""))
        if unit.name.type == "slice":
            path = slice_path(unit.text)
        else:
            path = f"{slice_path(unit.slice).rstrip('/')}/{unit.text}"
        member = cls(unit, Account(path))
        if path != "/":
            member.memcg = harness.memcg(path)
            for key in ("X-KmemMax", "MemoryMax"):
                member.set_limit(key, made_now=True)
            member.account.take_counters(member.memcg.counters())
        return member

    @property
    def state(self) -> State:
        """Its sub-state."""
        return self.own_state if self.service is None else self.service.state

    @property
    def result(self) -> Result:
        """How it last went."""
        own = Result.SUCCESS if self.service is None else self.service.result
        return own if own is not Result.SUCCESS else self.refused

    @property
    def held(self) -> bool:
        """Whether it has neither failed nor been kept from starting."""
        return self.state is not State.FAILED and self.refused is Result.SUCCESS

    # -- what jobs ask of what is no service -----------------------------------------------

    @property
    def active(self) -> str:
        """Its active state."""
        return self.state.active

    @property
    def why_no_reload(self) -> str:
        """Why it cannot be reloaded."""
        return f"a {self.unit.name.type} has nothing to read again"

    def start(self) -> JobResult:
        """Be active at once, if its conditions hold."""
        unmet = first_unmet(self.unit.unit.asserts)
        if unmet is not None:
            return JobResult.ASSERT
        if first_unmet(self.unit.unit.conditions) is None:
            self._enter(State.ACTIVE)
        return JobResult.DONE

    def stop(self) -> JobResult:
        """Be no longer active at once."""
        self._enter(State.DEAD)
        return JobResult.DONE

    def reload(self) -> JobResult:
        """Have nothing to reload."""
        return JobResult.INVALID

    def _enter(self, state: State) -> None:
        before, self.own_state = self.own_state, state
        self.changed(before)

    # -- limits and figures ----------------------------------------------------------------

    def set_limit(self, key: str, *, made_now: bool = False) -> None:
        """Have the memcg's limit be what the unit says. Raises: ConfigurationError."""
        limits, memcg = self.unit.limits, self.memcg
        if memcg is None:
            return
        try:
            if key == "X-KmemMax":
                set_memcg_limit(memcg, "kmem", limits.kmem_max, made_now=made_now)
            elif key == "MemoryMax":
                set_memcg_limit(memcg, "memory", limits.memory_max, made_now=made_now)
        except OSError as error:
            message = f"{self.unit.text}: {key}= cannot be set: {error.strerror}"
            raise ConfigurationError(message) from error
        self.account.take_counters(memcg.counters())

    async def look(self, controller: Connection) -> str | None:
        """Bring its figures up to date; give what there is to say of them.

        Raises: ControllerDiedError.
        """
        before = self.account.counters["memory"]["max_usage"]
        cell = None if self.service is None else self.service.cell
        if cell is not None and not cell.lost:
            report = await asyncio.to_thread(cell.box.report)
            if self.service is not None and self.service.cell is cell:
                if self.account.look(report):
                    self.service.out_of_memory()
                if report["controller_died"]:
                    raise ControllerDiedError("the controller does not answer")
        elif self.memcg is not None:
            with suppress(OSError):
                counters = await asyncio.to_thread(
                    controller.counters, self.memcg.path, census=False
                )
                self.account.take_counters(counters)
        high, now = self.unit.limits.memory_high, self.account.counters["memory"]["max_usage"]
        # Once: there is nothing here that could be reclaimed.
        return (
            f"MemoryHigh={high} passed: {now} bytes" if high >= 0 and before <= high < now else None
        )

    def over(self, report: dict[str, Any]) -> None:
        """Take the last figures of an activation."""
        self.account.close(report)
        if len(self.reports) < _MOST_REPORTS:
            self.reports.append(
                {**report, "result": self.result.value, "main_ended": self._main_ended()}
            )

    def describe(self) -> dict[str, Any]:
        """Say all about it, JSON-ready. Units: bytes."""
        service, refusals = self.service, self.account.refusals()
        return {
            "unit": self.unit.text,
            "description": self.unit.unit.description,
            "slice": self.unit.slice,
            "active": self.state.active,
            "state": self.state.value,
            "result": self.result.value,
            "starts": service.nr_starts if service else 0,
            "restarts": service.nr_restarts if service else 0,
            "main_pid": service.main_pid if service else 0,
            "main_ended": self._main_ended(),
            "status": service.status_text if service else "",
            "tasks": self.account.nr_tasks,
            "tasks_peak": self.account.nr_tasks_peak,
            "memcg": {"path": self.account.path, **self.account.counters},
            "refusals": refusals,
            "hint": hint_for(service, refusals) if service else "",
            "not_emulated": [
                {
                    "place": str(one.assignment.place),
                    "key": f"{one.assignment.section}.{one.assignment.key}",
                    "value": one.assignment.value,
                    "handling": one.handling.value,
                    "why": one.why,
                }
                for one in self.unit.not_emulated()
            ],
        }

    def _main_ended(self) -> dict[str, Any] | None:
        ending = None if self.service is None else self.service.main_ending
        if ending is None:
            return None
        return {"code": ending.code, "signal": ending.signal, "core": ending.core}
