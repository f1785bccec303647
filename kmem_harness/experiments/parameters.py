"""What an experiment varies: lists, ranges, and bisections. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.limit_text import PAGE
from kmem_harness.core.sizes import UNLIMITED, parse_size
from kmem_harness.experiments.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Bisection", "Value", "Vary", "read_vary"]

Value = str | int | float
_LONGEST = 10_000


@dataclass(frozen=True)
class Bisection:
    """Find the smallest value that passes. Units: whole numbers, bytes for sizes.

    *low* is known to be too small or the smallest allowed; *high* is tried first.
    """

    name: str
    low: int
    high: int
    resolution: int


@dataclass(frozen=True)
class Vary:
    """Values of each parameter, in the order given, and the parameter bisected, if one is."""

    values: Mapping[str, tuple[Value, ...]]
    bisection: Bisection | None = None

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Give every combination of the listed values; one empty one if nothing is listed."""
        for chosen in itertools.product(*self.values.values()):
            yield dict(zip(self.values, chosen, strict=True))

    @property
    def names(self) -> list[str]:
        """All parameters."""
        return [*self.values, *([self.bisection.name] if self.bisection else [])]


def read_vary(fields: Fields) -> Vary:
    """Read the table ``vary``. Raises: ConfigurationError."""
    values: dict[str, tuple[Value, ...]] = {}
    bisection: Bisection | None = None
    for name, given in fields.items().items():
        if not name.isidentifier():
            raise fields.fail(name, "a parameter's name is letters, digits and _")
        if isinstance(given, list):
            if not given or not all(_is_value(one) for one in given):
                raise fields.fail(name, "a list of texts or numbers is needed, not an empty one")
            if len(set(given)) < len(given):
                raise fields.fail(name, "a value stands there twice; use repeats")
            values[name] = tuple(given)
            continue
        table = Fields(f"{fields.where}.{name}", given)
        if "bisect" in table:
            if bisection is not None:
                message = f"{fields.where}: {bisection.name} and {name} are bisected; one can be"
                raise ConfigurationError(message)
            bisection = _read_bisection(name, table)
        else:
            values[name] = tuple(_read_range(table))
        table.done()
    return Vary(values, bisection)


def _read_bisection(name: str, table: Fields) -> Bisection:
    ends = table.raw("bisect")
    if not isinstance(ends, list) or len(ends) != 2:  # noqa: PLR2004 - two ends
        raise table.fail("bisect", 'two ends are needed, such as ["64k", "8M"]')
    low, high = (_number(table, "bisect", end) for end in ends)
    is_size = any(isinstance(end, str) for end in ends)
    resolution = _number(table, "resolution", table.raw("resolution", PAGE if is_size else 1))
    if not low < high:
        raise table.fail("bisect", "the first end must be below the second")
    if resolution < 1:
        raise table.fail("resolution", "at least 1 is needed")
    return Bisection(name, low, high, resolution)


def _read_range(table: Fields) -> list[int]:
    low = _number(table, "from", table.raw("from"))
    high = _number(table, "to", table.raw("to"))
    found = [low]
    if "factor" in table:
        factor = table.number("factor", 2, least=1.01)
        while (following := max(int(found[-1] * factor), found[-1] + 1)) <= high:
            found.append(following)
            _check_length(table, found)
    else:
        step = _number(table, "step", table.raw("step"))
        if step < 1:
            raise table.fail("step", "at least 1 is needed")
        while (following := found[-1] + step) <= high:
            found.append(following)
            _check_length(table, found)
    if low > high:
        raise table.fail("from", f"no value lies from {low} to {high}; swap the ends")
    return found


def _check_length(table: Fields, found: list[int]) -> None:
    if len(found) > _LONGEST:
        message = f"{table.where}: over {_LONGEST} values; take a larger step, or bisect"
        raise ConfigurationError(message)


def _number(table: Fields, key: str, value: Any) -> int:
    """Read a whole number or a size."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            nbytes = parse_size(value)
        except ConfigurationError as error:
            raise table.fail(key, str(error)) from None
        if nbytes != UNLIMITED:
            return nbytes
    raise table.fail(key, 'a whole number or a size such as "64k" is needed')


def _is_value(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)
