"""Turn kinds and the table of system calls into prices by number, and into what is to be trapped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.books import Charge, Kind, Price
from kmem_harness.costs.kinds import Argument, Modelled, charged_syscalls
from kmem_harness.costs.live import PLACED
from kmem_harness.interposer.filter import Condition
from kmem_harness.interposer.memory_maps import table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kmem_harness.interposer.syscalls import Architecture

__all__ = ["Pricing", "add_kinds", "families", "make_pricing", "read_kinds"]

_NEW_DESCRIPTOR = 7  # argument 1 of dup2 and dup3, in a notification


@dataclass
class Pricing:
    """What each number is charged, and where the trap itself is narrowed."""

    prices: dict[int, Price] = field(default_factory=dict)
    only_if: dict[str, Condition] = field(default_factory=dict)


def read_kinds(request: Mapping[str, Mapping[str, Any]]) -> dict[str, Kind]:
    """Read the kinds of a control request, as ``LiveKind.request`` gives them."""
    return {
        name: Kind(
            name,
            int(cost["nbytes"]),
            int(cost["errno"]),
            str(cost["errno_name"]),
            int(cost.get("included", 0)),
        )
        for name, cost in request.items()
    }


def families(kinds: Mapping[str, Kind]) -> dict[str, dict[str, Kind]]:
    """Find the families of names that *kinds* has whole: kinds by class of file system."""
    return {
        family: {where: kinds[name] for where, name in placed.items()}
        for family, placed in PLACED.items()
        if all(name in kinds for name in placed.values())
    }


def make_pricing(
    kinds: Mapping[str, Kind], architecture: Architecture, grown: Callable[[int], None]
) -> Pricing:
    """Price every call that makes one of *kinds*; what a call makes besides is not charged.

    *grown* is told each process whose table of descriptors is about to grow.
    """
    known = dict(kinds)
    for family, placed in families(kinds).items():
        known[family] = max(placed.values(), key=lambda kind: kind.nbytes)
    pricing = Pricing()
    for name, entry in charged_syscalls(set(known)).items():
        number = architecture.numbers.get(name)
        if number is not None:
            price = _price(name, number, entry, known, grown)
            if not (entry.removes or price.charges_anything()):
                continue
            pricing.prices[number] = price
            narrowed = entry.only_if or _only_charged_case(entry, known)
            if narrowed is not None:
                pricing.only_if[name] = _condition(narrowed)
    return pricing


def add_kinds(
    pricing: Pricing,
    kinds: Mapping[str, Kind],
    request: Mapping[str, Mapping[str, Any]],
    architecture: Architecture,
) -> None:
    """Price the kinds of *request* that say what they are made by, one for each such call."""
    makes: dict[str, dict[Kind, int]] = {}
    for kind, cost in request.items():
        for name in cost.get("made_by", ()):
            makes.setdefault(name, {})[kinds[kind]] = 1
    for name, counts in makes.items():
        number = architecture.numbers.get(name)
        if number is not None and number not in pricing.prices:
            charge = Charge(name, number, tuple(counts.items()))
            pricing.prices[number] = Price(name, (((), charge),))


class _TablePrice(Price):
    """The price of putting a descriptor beyond the end of its table.

    Until a grace period has passed the tables before it are there, too: half as much again.
    """

    __slots__ = ("_grown", "_kind", "_number")

    def __init__(self, name: str, number: int, kind: Kind, grown: Callable[[int], None]) -> None:
        nothing = Charge(name, number, ())
        super().__init__(name, (((), nothing),))
        self.always = None
        self._kind = kind
        self._number = number
        self._grown = grown

    def charges_anything(self) -> bool:
        return True

    def choose(self, notification: tuple[int, ...]) -> Charge:
        wanted = notification[_NEW_DESCRIPTOR] & 0xFFFFFFFF
        units, pid = table_of(notification[1], wanted)
        if units:
            self._grown(pid)
        parts = ((self._kind, units + units // 2),) if units else ()
        return Charge(self.name, self._number, parts)


def _price(
    name: str,
    number: int,
    entry: Modelled,
    known: Mapping[str, Kind],
    grown: Callable[[int], None],
) -> Price:
    if entry.removes:
        return Price(name, (((), Charge(name, number, (), removes=True)),))
    makes = {kind for case in entry.cases for kind in case.makes}
    if makes == {"descriptor-table"}:
        return _TablePrice(name, number, known["descriptor-table"], grown)
    cases = []
    for case in entry.cases:
        counts: dict[Kind, int] = {}
        for made in case.makes:
            if made in known:
                counts[known[made]] = counts.get(known[made], 0) + 1
        charge = Charge(
            name,
            number,
            tuple(counts.items()),
            uncertain=entry.uncertain,
            copies_memory=case.copies_memory,
        )
        tests = tuple((test.number, test.mask, test.value) for test in case.when)
        cases.append((tests, charge))
    return Price(name, tuple(cases))


def _only_charged_case(entry: Modelled, known: Mapping[str, Kind]) -> Argument | None:
    """Find the one test under which anything is charged at all."""
    charged = [
        case
        for case in entry.cases
        if any(kind in known and known[kind].nbytes for kind in case.makes)
    ]
    if len(charged) == 1 and len(charged[0].when) == 1 and charged[0] is entry.cases[0]:
        return charged[0].when[0]
    return None


def _condition(test: Argument) -> Condition:
    if test.value is None:
        return Condition(arg=test.number, mask=test.mask)
    if not test.value:
        return Condition(arg=test.number, mask=test.mask, unset=True)
    return Condition(arg=test.number, equal=test.value)
