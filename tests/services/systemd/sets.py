"""Random unit sets and what happens to them: the same for systemd and for us. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["UnitSet", "unit_set"]

_RELATIONS = (
    *("Requires", "Requisite", "BindsTo", "PartOf", "Wants", "Conflicts", "PropagatesStopTo"),
    *("StopPropagatedFrom", "OnFailure", "OnSuccess", "Upholds"),
)
_KINDS = (*["long"] * 5, "fail", "ok", "remain", "skip")
_EVENTS = ("start", "start", "stop", "restart", "kill", "try-restart")
_BODIES = {
    "long": "exec sleep 1000",
    "fail": "exit 1",
    "ok": "true",
    "remain": "true",
    "skip": "exec sleep 1000",
}
#: Kinds whose starts are not counted: they are stopped while they start, sooner or later.
_RACY = "StopWhenUnneeded"


@dataclass(frozen=True)
class UnitSet:
    """Four services, and five events; ``{log}`` in a text is the folder of their logs."""

    number: int
    units: dict[str, str]
    events: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        """The services."""
        return list(self.units)

    @property
    def counted(self) -> list[str]:
        """Those whose starts are the same each time."""
        return [name for name, text in self.units.items() if _RACY not in text]


def unit_set(number: int) -> UnitSet:
    """Make the set of that number."""
    rng = random.Random(number)  # noqa: S311 - the same set for the same number
    names = [f"k{number}{letter}.service" for letter in "abcd"]
    units = {name: _unit(rng, name, names) for name in names}
    events = [("start", rng.choice(names))]
    events += [(rng.choice(_EVENTS), rng.choice(names)) for _ in range(4)]
    return UnitSet(number, units, tuple(events))


def _unit(rng: random.Random, name: str, names: list[str]) -> str:
    kind = rng.choice(_KINDS)
    unit = ["StartLimitIntervalSec=60", "StartLimitBurst=4", "DefaultDependencies=no"]
    for _ in range(rng.choice([0, 1, 1, 2])):
        other = rng.choice([one for one in names if one != name])
        unit.append(f"{rng.choice(_RELATIONS)}={other}")
        if rng.random() < 0.6:  # one way round alone, so that there is no circle
            unit.append(f"After={other}" if name > other else f"Before={other}")
    unit += ["StopWhenUnneeded=yes"] if rng.random() < 0.15 else []
    unit += ["ConditionPathExists=/nonexistent/x"] if kind == "skip" else []
    service = ["Type=oneshot"] if kind in ("fail", "ok", "remain") else []
    service += ["RemainAfterExit=yes"] if kind == "remain" else []
    if kind == "long" and rng.random() < 0.4:
        service += [f"Restart={rng.choice(['on-failure', 'always'])}", "RestartSec=80ms"]
    service.append(f"ExecStart=/bin/sh -c 'echo up >> {{log}}/{name}; {_BODIES[kind]}'")
    return "\n".join(["[Unit]", *unit, "[Service]", *service, ""])
