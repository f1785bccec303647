"""Put units into an order: who is pulled in, and who waits for whom. Starts nothing."""

from __future__ import annotations

import graphlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.unitfile.load import UnitNotFoundError
from kmem_harness.services.unitfile.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.services.unitfile.load import Library
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Plan", "make_plan"]

_EMULATED = ("service", "slice", "target")


@dataclass
class Plan:
    """The units of a run, and their relations by name."""

    units: dict[str, Unit] = field(default_factory=dict)
    #: Unit: those whose start has to be over before its own begins.
    after: dict[str, set[str]] = field(default_factory=dict)
    #: Unit: those without which it cannot start.
    requires: dict[str, set[str]] = field(default_factory=dict)
    #: Units that are named and not emulated, or not there; they count as started.
    assumed: dict[str, str] = field(default_factory=dict)
    #: Only to be started when another unit fails or ends (``OnFailure=``, ``OnSuccess=``).
    on_demand: set[str] = field(default_factory=set)

    def in_order(self) -> list[str]:
        """List all units, each after those it waits for."""
        graph = {name: self.after[name] for name in sorted(self.units)}
        return list(graphlib.TopologicalSorter(graph).static_order())

    def stopped_with(self, name: str) -> set[str]:
        """List who has to stop when somebody stops *name*: those that need or are part of it."""
        return {
            other
            for other, unit in self.units.items()
            if name in self.requires[other] or name in unit.unit.part_of
        }

    def bound_to(self, name: str) -> set[str]:
        """List who has to stop whenever *name* is no longer active."""
        return {other for other, unit in self.units.items() if name in unit.unit.binds_to}


def make_plan(library: Library, names: Iterable[str]) -> Plan:
    """Load *names* and all they pull in, and put them in order.

    Raises: ConfigurationError for a file that cannot be used, a required unit that is not there,
    units that conflict, and a cycle, naming its units.
    """
    plan = Plan()
    asked = [library.load(name).text for name in names]
    _pull(plan, library, asked)
    wanted = set(plan.units)
    _pull(plan, library, _reactions(plan, library))
    plan.on_demand = {n for n in plan.units.keys() - wanted if not n.endswith(".slice")}
    for name, unit in plan.units.items():
        plan.after[name] = _resolved(library, unit.unit.after) & plan.units.keys()
        if _needs_slice(unit):
            plan.after[name].add(unit.slice)
        needs = [*unit.unit.requires, *unit.unit.binds_to, *unit.unit.requisite]
        plan.requires[name] = _resolved(library, needs) & plan.units.keys()
    for name, unit in plan.units.items():
        for other in _resolved(library, unit.unit.before) & plan.units.keys():
            plan.after[other].add(name)
    for name, unit in plan.units.items():
        _follow_members(plan, library, name, unit)
    _check_conflicts(plan)
    try:
        plan.in_order()
    except graphlib.CycleError as error:
        cycle = " before ".join(error.args[1])
        message = (
            f"the units wait for each other in a circle: {cycle}; take away one of their After= "
            "or Before="
        )
        raise ConfigurationError(message) from error
    return plan


def _pull(plan: Plan, library: Library, names: list[str]) -> None:
    waiting = list(names)
    while waiting:
        unit = library.load(waiting.pop())
        if unit.text in plan.units:
            continue
        plan.units[unit.text] = unit
        if _needs_slice(unit):
            waiting.append(unit.slice)
        for wanted, required in library.installed_into(unit.text):
            unit.unit.wants += [wanted] if not required else []
            unit.unit.requires += [wanted] if required else []
        waiting += [other for other in unit.unit.wants if _is_there(plan, library, other)]
        for other in [*unit.unit.requires, *unit.unit.binds_to, *unit.unit.requisite]:
            if _is_there(plan, library, other):
                waiting.append(other)
            elif parse_name(other).type == "service":
                message = (
                    f"{unit.text} requires {other}, which is not there; name its file or folder, "
                    "too, or make it Wants="
                )
                raise UnitNotFoundError(message)


def _needs_slice(unit: Unit) -> bool:
    """Say whether a unit implies one more slice: all are below the root, which is always there."""
    return unit.name.type in ("service", "slice") and unit.slice != "-.slice"


def _is_there(plan: Plan, library: Library, name: str) -> bool:
    kind = parse_name(name).type
    if kind not in _EMULATED:
        plan.assumed[name] = f"{kind} units are not emulated; it counts as started"
        return False
    if library.load_if_there(name) is None:
        plan.assumed[name] = "it is not among the units given; it counts as started"
        return False
    return True


def _reactions(plan: Plan, library: Library) -> list[str]:
    """List who is to be started when another unit fails or ends, as far as it is there."""
    named = [n for u in plan.units.values() for n in (*u.unit.on_failure, *u.unit.on_success)]
    return [name for name in named if name not in plan.units and _is_there(plan, library, name)]


def _resolved(library: Library, names: Iterable[str]) -> set[str]:
    """Replace aliases by the units they stand for."""
    found = set()
    for name in names:
        unit = library.load_if_there(name) if parse_name(name).type in _EMULATED else None
        found.add(name if unit is None else unit.text)
    return found


def _follow_members(plan: Plan, library: Library, name: str, unit: Unit) -> None:
    """Have a target wait for what it pulls in, as systemd does by default."""
    if unit.name.type != "target" or not unit.unit.default_dependencies:
        return
    members = _resolved(library, [*unit.unit.wants, *unit.unit.requires, *unit.unit.binds_to])
    for member in members & plan.units.keys():
        if name not in plan.after[member] and plan.units[member].unit.default_dependencies:
            plan.after[name].add(member)


def _check_conflicts(plan: Plan) -> None:
    for name, unit in plan.units.items():
        for other in unit.unit.conflicts:
            if other in plan.units and name not in plan.on_demand and other not in plan.on_demand:
                message = f"{name} conflicts with {other}; leave one of them out"
                raise ConfigurationError(message)
