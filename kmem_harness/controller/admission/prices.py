"""Turn kinds and the table of system calls into prices by number, and into what is to be trapped.

Boxes with the same kinds share what follows from their names; the rest is made for each call of
each box when it is first seen, for most never are.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from kmem_harness.controller.account.books import Charge, Kind, Price
from kmem_harness.costs.kinds import Modelled, charged_syscalls
from kmem_harness.costs.live import PLACED
from kmem_harness.interposer.filter import Condition
from kmem_harness.procfs.memory_maps import table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kmem_harness.costs.kinds import Argument, Case, Scaled
    from kmem_harness.interposer.syscalls import Architecture

__all__ = ["Prices", "families", "make_prices", "read_kinds"]

_TABLE = "descriptor-table"
_ARGUMENTS = 6  # where they begin in a notification


class _Tariff(NamedTuple):
    """The calls that are charged, by number, and where the trap itself is narrowed."""

    calls: dict[int, tuple[str, Modelled]]
    only_if: dict[str, Condition]


class Prices(dict[int, Price]):
    """What each number is charged in one box; it has only those that were asked for."""

    def __init__(
        self,
        tariff: _Tariff | None = None,
        kinds: Mapping[str, Kind] | None = None,
        grown: Callable[[int], None] | None = None,
    ) -> None:
        """Price the calls of *tariff*; without, none is charged."""
        super().__init__()
        self._tariff = tariff or _Tariff({}, {})
        self._kinds = kinds or {}
        self._grown = grown

    def __missing__(self, number: int) -> Price:
        name, entry = self._tariff.calls[number]
        price = self[number] = _price(name, number, entry, self._kinds, self._grown)
        return price

    @property
    def names(self) -> frozenset[str]:
        """The calls that are charged, or else have to be seen."""
        own = {price.name for price in self.values()}
        return frozenset(own.union(name for name, _ in self._tariff.calls.values()))

    @property
    def only_if(self) -> dict[str, Condition]:
        """Under what condition a call need be seen at all."""
        return self._tariff.only_if

    def covers(self, number: int) -> bool:
        """Say whether calls of *number* have to be seen."""
        return number in self or number in self._tariff.calls


def read_kinds(request: Mapping[str, Mapping[str, Any]]) -> dict[str, Kind]:
    """Read the kinds of a control request, as ``LiveKind.request`` gives them."""
    return {
        # Interned: every box has the same names, each time from another packet.
        sys.intern(name): Kind(
            sys.intern(name),
            int(cost["nbytes"]),
            int(cost["errno"]),
            sys.intern(str(cost["errno_name"])),
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


def make_prices(
    kinds: Mapping[str, Kind],
    request: Mapping[str, Mapping[str, Any]],
    architecture: Architecture,
    grown: Callable[[int], None],
) -> Prices:
    """Price every call that makes one of *kinds*; what a call makes besides is not charged.

    Kinds that *request* says what they are made by are one for each such call. *grown* is told
    each process whose table of descriptors is about to grow.
    """
    known = dict(kinds)
    for family, placed in families(kinds).items():
        known[family] = max(placed.values(), key=lambda kind: kind.nbytes)
    costly = frozenset(name for name, kind in known.items() if kind.nbytes)
    prices = Prices(_tariff(frozenset(known), costly, architecture), known, grown)
    makes: dict[str, dict[Kind, int]] = {}
    for kind, cost in request.items():
        for name in cost.get("made_by", ()):
            makes.setdefault(name, {})[kinds[kind]] = 1
    for name, counts in makes.items():
        number = architecture.numbers.get(name)
        if number is not None and not prices.covers(number):
            charge = Charge(name, number, tuple(counts.items()))
            prices[number] = Price(name, (((), charge),))
    return prices


@lru_cache(maxsize=8)
def _tariff(known: frozenset[str], costly: frozenset[str], architecture: Architecture) -> _Tariff:
    """Find the calls that make one of the kinds *known*, of which only *costly* have a price."""
    tariff = _Tariff({}, {})
    for name, entry in charged_syscalls(known).items():
        number = architecture.numbers.get(name)
        charged = [case for case in entry.cases if costly.intersection(case.all_kinds)]
        if number is None or not (entry.removes or charged or _TABLE in _made_by(entry)):
            continue
        tariff.calls[number] = name, entry
        narrowed = entry.only_if or _only_charged_case(entry, charged)
        if narrowed is not None:
            tariff.only_if[name] = _condition(narrowed)
    return tariff


def _made_by(entry: Modelled) -> set[str]:
    return {kind for case in entry.cases for kind in case.all_kinds}


class _TablePrice(Price):
    """The price of putting a descriptor beyond the end of its table.

    Until a grace period has passed the tables before it are there, too: half as much again.
    """

    __slots__ = ("_grown", "_kind", "_number", "_word")
    stands_alone = False

    def __init__(
        self, name: str, number: int, word: int, kind: Kind, grown: Callable[[int], None] | None
    ) -> None:
        nothing = Charge(name, number, ())
        super().__init__(name, (((), nothing),))
        self.always = None
        self._kind = kind
        self._number = number
        self._word = _ARGUMENTS + word
        self._grown = grown

    def choose(self, notification: tuple[int, ...]) -> Charge:
        wanted = notification[self._word] & 0xFFFFFFFF
        units, pid = table_of(notification[1], wanted)
        if units and self._grown is not None:
            self._grown(pid)
        parts = ((self._kind, units + units // 2),) if units else ()
        return Charge(self.name, self._number, parts)


class _ScaledPrice(Price):
    """The price of a call of which an argument says how many objects it makes."""

    __slots__ = ("_base", "_kind", "_scaled")
    stands_alone = False

    def __init__(self, name: str, base: Charge, scaled: Scaled, kind: Kind) -> None:
        super().__init__(name, (((), base),))
        self.always = None
        self._base = base
        self._scaled = scaled
        self._kind = kind

    def choose(self, notification: tuple[int, ...]) -> Charge:
        _, number, per, most, begun = self._scaled
        asked = notification[_ARGUMENTS + number] & 0xFFFFFFFF
        units = min((asked + per - 1 if begun else asked) // per, most)
        return self._base.with_more(((self._kind, units),)) if units else self._base


def _price(
    name: str,
    number: int,
    entry: Modelled,
    known: Mapping[str, Kind],
    grown: Callable[[int], None] | None,
) -> Price:
    if entry.removes:
        return Price(name, (((), Charge(name, number, (), removes=True)),))
    if _made_by(entry) == {_TABLE}:
        return _TablePrice(name, number, entry.table, known[_TABLE], grown)
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
        if case.scaled is not None and case.scaled.kind in known:
            return _ScaledPrice(name, charge, case.scaled, known[case.scaled.kind])
        tests = tuple((test.number, test.mask, test.value) for test in case.when)
        cases.append((tests, charge))
    return Price(name, tuple(cases))


def _only_charged_case(entry: Modelled, charged: list[Case]) -> Argument | None:
    """Find the one test under which anything is charged at all."""
    if len(charged) == 1 and len(charged[0].when) == 1 and charged[0] is entry.cases[0]:
        return charged[0].when[0]
    return None


def _condition(test: Argument) -> Condition:
    if test.among:
        return Condition(arg=test.number, equal=test.among)
    if test.value is None:
        return Condition(arg=test.number, mask=test.mask)
    if not test.value:
        return Condition(arg=test.number, mask=test.mask, unset=True)
    return Condition(arg=test.number, equal=(test.value,))
