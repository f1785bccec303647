"""Find out what is alive in one box, part by part, each as often as its cost allows.

Knows the books and when to look; what a part looks at is its own business. A part that was
counted after a call was trapped is fresh: what it left on the books is really there, or under way.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.account.books import Books
    from kmem_harness.procfs.steps import Steps

__all__ = ["Audit", "Part"]

#: Before a refusal, a part this quick is counted again each time; a slower one gets at most 1/5 of
#: the time, and half of it where calls have waited for long. For a timeline all together get 1/10.
_QUICK_SECONDS = 0.000_25
_REST = 4.0
_FORCED_REST = 1.0
_LONG_REST = 9.0


class Part(Protocol):
    """One part of what is alive."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Name the kinds it counts."""

    def count(self, books: Books) -> Steps[None]:
        """Look, and bring *books* up to date in the last step."""

    def potential(self, books: Books) -> int:
        """Say how many bytes a look could take back at most."""

    def doubts(self) -> list[str]:
        """Say, in sentences, what it could not see."""

    def close(self) -> None:
        """Let go of what is held open."""


class _Timed:
    """A part, and what it has cost so far. Units: seconds."""

    __slots__ = ("began", "count", "ended", "last", "part", "total")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.began = self.ended = 0.0
        self.count = 0
        self.last = 0.0
        self.total = 0.0

    @property
    def cost(self) -> float:
        """What a look costs: the average keeps one that was held up from looking like a large box."""
        return min(self.last, self.total / self.count) if self.count else 0.0

    def is_due(self, now: float, rest: float = _REST) -> bool:
        """Say whether it is quick, or has rested so many times as long as it takes."""
        cost = self.cost
        return cost < _QUICK_SECONDS or now >= self.ended + cost * rest

    def run(self, books: Books) -> Steps[None]:
        """Look, and note what that took: what is done between its steps is no part of it."""
        self.began = began = time.monotonic()
        took = 0.0
        for _ in self.part.count(books):
            took += time.monotonic() - began
            yield
            began = time.monotonic()
        self.ended = now = time.monotonic()
        self.last = took + now - began
        self.total += self.last
        self.count += 1


class Audit:
    """The parts of one box, the cheapest first."""

    def __init__(self, books: Books, parts: list[Part]) -> None:
        """Count *parts* into *books*: those that have a kind of theirs, or that look at no kinds."""
        self._books = books
        self._rested = 0.0
        self._parts = [
            _Timed(part)
            for part in parts
            if not part.kinds or any(kind in books.kinds for kind in part.kinds)
        ]

    @property
    def count(self) -> int:
        """How many looks there were at the part looked at most often."""
        return max((timed.count for timed in self._parts), default=0)

    @property
    def is_quick(self) -> bool:
        """Whether all looks together take no longer than one that is not worth putting off."""
        return sum(timed.cost for timed in self._parts) < _QUICK_SECONDS

    @property
    def seconds(self) -> float:
        """What all looks together have cost."""
        return sum(timed.total for timed in self._parts)

    def doubts(self) -> list[str]:
        """Say what could not be seen, so that it stays charged or is charged too little."""
        return [doubt for timed in self._parts for doubt in timed.part.doubts()]

    def all_parts(self) -> Steps[None]:
        """Count everything now."""
        for timed in self._parts:
            yield from timed.run(self._books)
            yield

    def one_part(self, part: Part) -> Steps[None]:
        """Count *part*, one of these, now."""
        for timed in self._parts:
            if timed.part is part:
                yield from timed.run(self._books)

    def parts_for(
        self,
        shortfall_nbytes: int,
        since: float,
        now: float,
        before: Callable[[], Steps[None]],
        *,
        forced: bool,
    ) -> Steps[bool]:
        """Count parts until *shortfall_nbytes* are free, or it is certain that they are not.

        What was counted after *since* need not be counted again: one look serves all calls that
        were trapped before it. With calls under way it may have come too early, and is taken again
        where it is due. *before* is called before the first look.
        False if a part that might have made room was left out, for it was counted only just
        before *since*; *forced* gives a part more of the time.
        """
        books = self._books
        target = books.lowered_nbytes + shortfall_nbytes
        stale = [timed for timed in self._parts if timed.began < since or books.tickets]
        sure = True
        for number, timed in enumerate(stale):
            own, *later = (one.part.potential(books) for one in stale[number:])
            if own + sum(later) < target - books.lowered_nbytes:
                break  # however much of it is gone, it is not enough
            if not own:
                continue
            forces = forced and timed.began < since
            if timed.is_due(now, _FORCED_REST if forces else _REST):
                yield from before()
                before = _nothing
                yield from timed.run(books)
                if books.lowered_nbytes >= target:
                    break
            elif timed.began < since:
                sure = False
        return sure

    def due_parts(self, now: float, before: Callable[[], Steps[None]]) -> Steps[None]:
        """Count everything, for a timeline, unless that was done just now."""
        if now < self._rested:
            return
        seconds = self.seconds
        yield from before()
        yield from self.all_parts()
        took = self.seconds - seconds
        if took > _QUICK_SECONDS:
            self._rested = time.monotonic() + took * _LONG_REST

    def close(self) -> None:
        """Let go of what the parts hold open."""
        for timed in self._parts:
            with suppress(Exception):  # whatever it is, it goes with the box
                timed.part.close()


def _nothing() -> Steps[None]:
    """Do nothing more before a look."""
    yield from ()
