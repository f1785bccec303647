"""Hold what the units of a run are to each other, in the terms of ``rules.py``. Pure; starts nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kmem_harness.services.engine.rules import PROPAGATION, Atom, JobMode, JobType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Beginning", "Relations"]

#: Types of units in the order in which systemd lets them begin.
_TYPES = ("slice", "target", "service")


@dataclass
class Relations:
    """Order and meaning between units. Units: seconds."""

    #: Unit: those whose start has to be over before its own begins.
    after: dict[str, set[str]] = field(default_factory=dict)
    #: Units that another one's isolation leaves alone.
    stays: set[str] = field(default_factory=set)
    #: Unit: where it stands among those that may all begin. Source: unit_compare_priority.
    priority: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    stop_when_unneeded: set[str] = field(default_factory=set)
    job_timeouts: dict[str, float] = field(default_factory=dict)
    job_running_timeouts: dict[str, float] = field(default_factory=dict)
    _towards: dict[tuple[str, Atom], list[str]] = field(default_factory=dict)
    _modes: dict[tuple[str, Atom], JobMode] = field(default_factory=dict)

    @classmethod
    def of(cls, units: Mapping[str, Unit], after: dict[str, set[str]]) -> Relations:
        """Take down what *units* say, whose names are resolved already."""
        found = cls(after)
        for name, unit in units.items():
            settings = unit.unit
            for relation in PROPAGATION:
                for other in getattr(settings, relation):
                    if other in units:
                        found.relate(name, relation, other)
            if unit.has_slice:  # as systemd has it: a unit cannot be without its slice
                found.relate(name, "requires", unit.slice)
            nice = unit.service.nice if unit.service else None
            found.priority[name] = (_TYPES.index(unit.name.type), nice or 0, name)
            if settings.ignore_on_isolate or unit.name.type == "slice":
                found.stays.add(name)
            if settings.stop_when_unneeded:
                found.stop_when_unneeded.add(name)
            if settings.job_timeout < math.inf:
                found.job_timeouts[name] = settings.job_timeout
            if settings.job_running_timeout < math.inf:
                found.job_running_timeouts[name] = settings.job_running_timeout
            found._modes[name, Atom.ON_FAILURE] = JobMode(settings.on_failure_job_mode)
            found._modes[name, Atom.ON_SUCCESS] = JobMode(settings.on_success_job_mode)
        return found

    def relate(self, name: str, relation: str, other: str) -> None:
        """Have *name* be in *relation*, a field of [Unit], to *other*."""
        meaning = PROPAGATION[relation]
        for one, atoms, two in ((name, meaning.here, other), (other, meaning.there, name)):
            for atom in atoms:
                there = self._towards.setdefault((one, atom), [])
                if two not in there:
                    there.append(two)

    def towards(self, unit: str, atom: Atom) -> list[str]:
        """List the units that *unit* has *atom* towards."""
        return self._towards.get((unit, atom), [])

    def reaction_mode(self, unit: str, atom: Atom) -> JobMode:
        """Give the job mode of what is started when *unit* fails, or ends well."""
        return self._modes.get((unit, atom), JobMode.REPLACE)


@dataclass(frozen=True)
class Beginning:
    """How things stand before anything runs: what a transaction comes to can be seen beforehand."""

    relations: Relations

    def active(self, _: str) -> str:
        """Say that nothing runs."""
        return "inactive"

    def queued(self, _: str) -> JobType | None:
        """Say that nothing is queued."""
        return None

    def related(self, unit: str, atom: Atom) -> Iterable[str]:
        """List the units that *unit* has *atom* towards."""
        return self.relations.towards(unit, atom)

    def after(self, unit: str) -> set[str]:
        """List the units that *unit* is ordered after."""
        return self.relations.after[unit]

    def why_not(self, _: str, __: JobType) -> str:
        """Find no obstacle."""
        return ""

    def isolated(self) -> Iterable[str]:
        """Leave all alone."""
        return ()
