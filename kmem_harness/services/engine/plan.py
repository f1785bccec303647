"""Gather the units of a run, and what they are to each other. Starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kmem_harness.services.engine.relations import Beginning, Relations
from kmem_harness.services.engine.rules import PROPAGATION, JobType
from kmem_harness.services.engine.transaction import transaction_for
from kmem_harness.services.unitfile.load import UnitNotFoundError
from kmem_harness.services.unitfile.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.services.unitfile.load import Library
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Plan", "make_plan"]

_EMULATED = ("service", "slice", "target")
#: Relations that start the other unit, too; and those without which a unit cannot be.
_STARTED_WITH = ("wants", "requires", "binds_to", "upholds")
_MUST_BE_THERE = ("requires", "binds_to", "requisite")
#: Relations whose other unit is kept at hand: it is started later, or has to run already.
_AT_HAND = ("on_failure", "on_success", "requisite")


@dataclass
class Plan:
    """The units of a run, and their relations by name."""

    units: dict[str, Unit] = field(default_factory=dict)
    #: Those that were asked for; what they pull in is started with them.
    asked: list[str] = field(default_factory=list)
    relations: Relations = field(default_factory=Relations)
    #: Units that are named and not emulated, or not there; they count as started.
    assumed: dict[str, str] = field(default_factory=dict)
    #: Only to be started when another unit fails or ends (``OnFailure=``, ``OnSuccess=``).
    on_demand: set[str] = field(default_factory=set)

    def in_order(self) -> list[str]:
        """List all units, each after those it waits for; of a circle, as far as that can be."""
        found: dict[str, None] = {}
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name not in seen:
                seen.add(name)
                for other in sorted(self.relations.after[name]):
                    visit(other)
                found[name] = None

        for name in sorted(self.units):
            visit(name)
        return list(found)


def make_plan(library: Library, names: Iterable[str], at_hand: Iterable[str] = ()) -> Plan:
    """Load *names* and all they pull in, and put them in order.

    Those *at_hand* are loaded, too, and started only when something asks for them.

    Raises: ConfigurationError for a file that cannot be used, a required unit that is not there,
    and what cannot be started together: conflicts, and circles of order, naming the units.
    """
    plan = Plan()
    plan.asked = list(dict.fromkeys(library.load(name).text for name in names))
    _pull(plan, library, plan.asked)
    wanted = set(plan.units)
    _pull(plan, library, at_hand)
    while reactions := _at_hand(plan, library):
        _pull(plan, library, reactions)
    plan.on_demand = {n for n in plan.units.keys() - wanted if not n.endswith(".slice")}
    for unit in plan.units.values():
        for relation in PROPAGATION:
            named = getattr(unit.unit, relation)
            setattr(unit.unit, relation, list(dict.fromkeys(_resolved(library, named))))
    plan.relations = Relations.of(plan.units, _order(plan, library))
    transaction_for(Beginning(plan.relations), [(JobType.START, name) for name in plan.asked])
    return plan


def _pull(plan: Plan, library: Library, names: Iterable[str]) -> None:
    waiting = list(names)
    while waiting:
        unit = library.load(waiting.pop())
        if unit.text in plan.units:
            continue
        plan.units[unit.text] = unit
        if unit.has_slice:
            waiting.append(unit.slice)
        for wanted, required in library.installed_into(unit.text):
            unit.unit.wants += [wanted] if not required else []
            unit.unit.requires += [wanted] if required else []
        for relation in dict.fromkeys((*_STARTED_WITH, *_MUST_BE_THERE)):
            for other in getattr(unit.unit, relation):
                if _is_there(plan, library, other):
                    waiting += [other] if relation in _STARTED_WITH else []
                elif relation in _MUST_BE_THERE and parse_name(other).type == "service":
                    message = (
                        f"{unit.text} requires {other}, which is not there; name its file or "
                        "folder, too, or make it Wants="
                    )
                    raise UnitNotFoundError(message)


def _is_there(plan: Plan, library: Library, name: str) -> bool:
    kind = parse_name(name).type
    if kind not in _EMULATED:
        plan.assumed[name] = f"{kind} units are not emulated; it counts as started"
        return False
    if library.load_if_there(name) is None:
        plan.assumed[name] = "it is not among the units given; it counts as started"
        return False
    return True


def _at_hand(plan: Plan, library: Library) -> list[str]:
    """List who has to be there for what may happen, and is not yet."""
    named = [
        name
        for unit in plan.units.values()
        for relation in _AT_HAND
        for name in _resolved(library, getattr(unit.unit, relation))
    ]
    return [name for name in named if name not in plan.units and _is_there(plan, library, name)]


def _resolved(library: Library, names: Iterable[str]) -> list[str]:
    """Replace aliases by the units they stand for."""
    found = []
    for name in names:
        unit = library.load_if_there(name) if parse_name(name).type in _EMULATED else None
        found.append(name if unit is None else unit.text)
    return found


def _order(plan: Plan, library: Library) -> dict[str, set[str]]:
    """Say who waits for whom: by After= and Before=, for its slice, and a target for its members."""
    after: dict[str, set[str]] = {}
    for name, unit in plan.units.items():
        after[name] = {*_resolved(library, unit.unit.after)} & plan.units.keys()
        if unit.has_slice:
            after[name].add(unit.slice)
    for name, unit in plan.units.items():
        for other in {*_resolved(library, unit.unit.before)} & plan.units.keys():
            after[other].add(name)
    for name, unit in plan.units.items():
        if unit.name.type == "target" and unit.unit.default_dependencies:
            members = {*unit.unit.wants, *unit.unit.requires, *unit.unit.binds_to}
            for member in members & plan.units.keys():
                if name not in after[member] and plan.units[member].unit.default_dependencies:
                    after[name].add(member)
    for name in plan.units:
        after[name].discard(name)
    return after
