"""Long looks in short steps: between two of them, whoever looks may do something else.

A look is a generator that yields after each step and returns what it saw. A step takes some tens of
microseconds, whatever a box holds: some sixty-four lines or entries at most.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["AT_ONCE", "Steps", "in_steps", "result_of", "timed"]

_T = TypeVar("_T")
#: A look that gives a _T in the end. It yields nothing, or a list in which to wait for something else.
Steps = Generator[Any, None, _T]
#: So many entries or lines make a step.
AT_ONCE = 64


def result_of(look: Steps[_T]) -> _T:
    """Take all steps of *look* at once, and give what it saw. Raises: what the look raises."""
    while True:
        try:
            next(look)
        except StopIteration as done:  # noqa: PERF203 - that is how it ends
            return done.value  # type: ignore[no-any-return]


def in_steps(items: Iterable[_T]) -> Iterator[tuple[_T, bool]]:
    """Give each of *items*, and whether a step ends with it."""
    for number, item in enumerate(items, start=1):
        yield item, not number % AT_ONCE


def timed(look: Steps[_T], took: Callable[[float], object]) -> Steps[_T]:
    """Go on with *look*, and tell *took* the seconds of each step: others' time is no part of it."""
    while True:
        began = time.monotonic()
        try:
            waits = next(look)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            took(time.monotonic() - began)
        yield waits
