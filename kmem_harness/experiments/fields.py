"""Read tables of an experiment file; every error names the place, the value and what would do."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Fields"]


class Fields:
    """One table, whose keys are taken one by one; :meth:`done` complains about those left."""

    def __init__(self, where: str, table: Any) -> None:
        """Read *table*, found at *where*. Raises: ConfigurationError if it is none."""
        if not isinstance(table, dict):
            message = f"{where or 'the file'}: {table!r} is no table; write [{where}] and keys"
            raise ConfigurationError(message)
        self.where = where
        self._table: Mapping[str, Any] = table
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        """Say whether *key* is there."""
        return key in self._table

    def fail(self, key: str, rule: str) -> ConfigurationError:
        """Make the error for the value of *key*."""
        return ConfigurationError(f"{self.at(key)}: {self._table.get(key)!r}: {rule}")

    def at(self, key: str) -> str:
        """Name the place of *key* in the file."""
        return f"{self.where}.{key}" if self.where else key

    def text(self, key: str, default: str | None = None) -> str | None:
        """Take a text."""
        value = self._take(key, default)
        if value is not None and not isinstance(value, str):
            raise self.fail(key, "a text is needed")
        return value

    def size(self, key: str) -> str | None:
        """Take a size or a text that will become one: ``"8M"``, ``8192``, ``"{limit}"``."""
        value = self._take(key, None)
        if isinstance(value, bool) or not isinstance(value, (str, int, type(None))):
            raise self.fail(key, 'a size is needed, such as "8M" or a parameter "{limit}"')
        return None if value is None else str(value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Take true or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false is needed")
        return value

    def number(self, key: str, default: float, *, least: float, most: float = 1e9) -> float:
        """Take a number from *least* to *most*."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(key, "a number is needed")
        if not least <= value <= most:
            raise self.fail(key, f"a number from {least:g} to {most:g} is needed")
        return float(value)

    def whole(self, key: str, default: int, *, least: int) -> int:
        """Take a whole number from *least* on."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.fail(key, f"a whole number from {least} on is needed")
        return value

    def words(self, key: str) -> tuple[str, ...] | None:
        """Take a list of texts, such as a command."""
        value = self._take(key, None)
        if value is None:
            return None
        if not isinstance(value, list) or not value or not all(isinstance(w, str) for w in value):
            raise self.fail(key, 'a list of texts is needed, such as ["sh", "-c", "..."]')
        return tuple(value)

    def texts(self, key: str) -> dict[str, str]:
        """Take a table of texts, such as an environment."""
        value = self._take(key, {})
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise self.fail(key, 'a table of texts is needed, such as {LANG = "C"}')
        return dict(value)

    def raw(self, key: str, default: Any = None) -> Any:
        """Take a value of any kind."""
        return self._take(key, default)

    def table(self, key: str) -> Fields:
        """Take a table below this one, empty if it is not there."""
        return Fields(self.at(key), self._take(key, {}))

    def tables(self, key: str) -> list[Fields]:
        """Take a list of tables; a single one may stand for itself."""
        value = self._take(key, [])
        rows = [value] if isinstance(value, dict) else value
        if not isinstance(rows, list):
            raise self.fail(key, "a list of tables is needed")
        return [Fields(f"{self.at(key)}[{number}]", row) for number, row in enumerate(rows)]

    def named_tables(self, key: str) -> dict[str, Fields]:
        """Take a table of tables, by name."""
        below = self.table(key)
        return {name: Fields(f"{below.where}.{name}", row) for name, row in below.items().items()}

    def items(self) -> dict[str, Any]:
        """Take all keys."""
        self._taken |= self._table.keys()
        return dict(self._table)

    def done(self) -> None:
        """Complain about a key that nobody took."""
        left = [key for key in self._table if key not in self._taken]
        if left:
            known = sorted(self._taken)
            close = get_close_matches(left[0], known, 1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            message = f"{self.at(left[0])}: unknown key; {meant}known are {', '.join(known)}"
            raise ConfigurationError(message)

    def _take(self, key: str, default: Any) -> Any:
        self._taken.add(key)
        return self._table.get(key, default)
