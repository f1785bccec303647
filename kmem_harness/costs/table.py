"""Load a cost table: what each kind of kernel object costs, and where each number comes from.

TOML is parsed here and nowhere else. Knows no memcgs and charges nothing.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import PROFILE_NAMES

# The standard library has had it since 3.11; tomli is the same parser for 3.10.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

__all__ = [
    "Assumed",
    "CostTable",
    "Documented",
    "Kind",
    "Measured",
    "Part",
    "Source",
    "load_costs",
]

FREED = ("now", "rcu", "early", "cache", "fs", "kept")
HELD_BY = ("descriptor", "child", "address-space", "nothing")
_LARGEST = (1 << 63) - 1
STUCK = "STUCK"
"""What a part's errno says where the kernel retries a page fault for ever instead of failing."""


@dataclass(frozen=True)
class Source:
    """Where a number comes from."""

    text: str


class Measured(Source):
    """Read off a running kernel."""


class Documented(Source):
    """Stated by a kernel's own tables or sources."""


class Assumed(Source):
    """Our guess, until somebody measures."""


_SOURCES: dict[str, type[Source]] = {
    "measured": Measured,
    "documented": Documented,
    "assumed": Assumed,
}


class Part(NamedTuple):
    """One allocation of an object: its bytes, its errno if refused, and when it is freed.

    :param every: how many objects share it, as a page table serves many pages.
    """

    name: str
    nbytes: int
    errno_name: str
    pages: bool
    freed: str
    every: int = 1


class Kind(NamedTuple):
    """One kind of kernel object.

    :param nbytes: kernel memory charged for one, in all.
    :param errno: what making one fails with; a part may say otherwise.
    :param user_nbytes: user memory charged along with it.
    :param peak_nbytes: what it takes for a moment while it is made.
    :param memory_limit_stretch: how many times more fit under a memory limit, thanks to reclaim.
    :param included: so many in each process are part of what its task costs.
    """

    name: str
    nbytes: int
    errno_name: str
    source: Source
    parts: tuple[Part, ...]
    held_by: str
    user_nbytes: int
    peak_nbytes: int
    time_us: int
    memory_limit_stretch: float
    included: int = 0

    @property
    def errno(self) -> int:
        """The errno's number; a stuck fault has none, and counts as ENOMEM."""
        return int(getattr(errno, self.errno_name, errno.ENOMEM))


class CostTable(NamedTuple):
    """The costs of one kernel."""

    kernel: str
    kinds: dict[str, Kind]
    constants: dict[str, int]


def load_costs(name_or_path: str) -> CostTable:
    """Load a profile's own table by its name, or the TOML file at a path.

    A file may name a ``base`` profile, whose kinds it then adds to or replaces.
    Raises: ConfigurationError naming file, line and key.
    """
    if name_or_path in PROFILE_NAMES:
        path = os.path.join(os.path.dirname(__file__), f"{name_or_path}.toml")
    else:
        path = name_or_path
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        message = (
            f"no cost table {name_or_path!r}: {error}. Give the path of a TOML file or one of "
            f"{', '.join(PROFILE_NAMES)}."
        )
        raise ConfigurationError(message) from error
    try:
        data = _toml.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        message = f"{path}: not TOML: {error}"
        raise ConfigurationError(message) from error
    return _Reader(path, text).table(data)


class _Reader:
    """Turns parsed TOML into a table, and finds the line of whatever is wrong."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._lines = text.splitlines()

    def table(self, data: dict[str, Any]) -> CostTable:
        self._only(data, ("kernel", "base", "kinds", "constants"), "")
        base = self._choice(data, "base", "", (*PROFILE_NAMES, ""), "")
        start = load_costs(base) if base else CostTable("", {}, {})
        kernel = self._choice(data, "kernel", "", PROFILE_NAMES, start.kernel or None)
        constants = dict(start.constants)
        for name, entry in self._tables(data, "constants", ""):
            table = f"constants.{name}"
            self._only(entry, ("value", "source"), table)
            constants[name] = self._whole(entry, "value", table)
            self._source(entry, table)
        kinds = dict(start.kinds)
        for name, entry in self._tables(data, "kinds", ""):
            kinds[name] = self._kind(name, entry)
        return CostTable(kernel, kinds, constants)

    def _kind(self, name: str, entry: dict[str, Any]) -> Kind:
        table = f"kinds.{name}"
        self._only(
            entry,
            (
                "nbytes",
                "errno",
                "source",
                "parts",
                "held_by",
                "user_nbytes",
                "peak_nbytes",
                "time_us",
                "memory_limit_stretch",
                "included",
            ),
            table,
        )
        nbytes = self._whole(entry, "nbytes", table)
        errno_name = self._errno(entry, table, "ENOMEM")
        parts = tuple(
            self._part(part, table, errno_name) for part in self._list(entry, "parts", table)
        )
        if not parts and nbytes:
            parts = (Part(name, nbytes, errno_name, pages=False, freed="now"),)
        total = round(sum(part.nbytes / part.every for part in parts))
        if total != nbytes:
            self._fail(table, "nbytes", f"its parts make {total}, not {nbytes}")
        stretch = entry.get("memory_limit_stretch", 1.0)
        if isinstance(stretch, bool) or not isinstance(stretch, (int, float)) or stretch < 1:
            self._fail(table, "memory_limit_stretch", f"a number of at least 1, not {stretch!r}")
        return Kind(
            name=name,
            nbytes=nbytes,
            errno_name=errno_name,
            source=self._source(entry, table),
            parts=parts,
            held_by=self._choice(entry, "held_by", table, HELD_BY, "descriptor"),
            user_nbytes=self._whole(entry, "user_nbytes", table, 0),
            peak_nbytes=self._whole(entry, "peak_nbytes", table, nbytes),
            time_us=self._whole(entry, "time_us", table, 10),
            memory_limit_stretch=float(stretch),
            included=self._whole(entry, "included", table, 0),
        )

    def _part(self, part: object, table: str, errno_name: str) -> Part:
        if not isinstance(part, dict):
            self._fail(table, "parts", f"a list of tables, not {part!r}")
        self._only(part, ("name", "nbytes", "errno", "pages", "freed", "every"), table)
        pages = part.get("pages", False)
        if not isinstance(pages, bool):
            self._fail(table, "pages", f"true or false, not {pages!r}")
        name = part.get("name")
        if not isinstance(name, str):
            self._fail(table, "name", f"a part's name, not {name!r}")
        return Part(
            name=name,
            nbytes=self._whole(part, "nbytes", table),
            errno_name=self._errno(part, table, errno_name),
            pages=pages,
            freed=self._choice(part, "freed", table, FREED, "now"),
            every=max(1, self._whole(part, "every", table, 1)),
        )

    def _source(self, entry: dict[str, Any], table: str) -> Source:
        source = entry.get("source")
        ways = list(source.items()) if isinstance(source, dict) else []
        how, text = ways[0] if len(ways) == 1 else ("", None)
        if how not in _SOURCES or not isinstance(text, str) or not text:
            choices = ", ".join(f'{{ {name} = "..." }}' for name in _SOURCES)
            self._fail(table, "source", f"one of {choices}, not {source!r}")
        return _SOURCES[how](text)

    def _errno(self, entry: dict[str, Any], table: str, default: str) -> str:
        name = entry.get("errno", default)
        if not isinstance(name, str) or (name != STUCK and not hasattr(errno, name)):
            self._fail(table, "errno", f"an errno's name such as ENOMEM, not {name!r}")
        return str(name)

    def _whole(
        self, entry: dict[str, Any], key: str, table: str, default: int | None = None
    ) -> int:
        value = entry.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
            self._fail(table, key, f"a whole number from 0 to {_LARGEST}, not {value!r}")
        return int(value)

    def _choice(
        self,
        entry: dict[str, Any],
        key: str,
        table: str,
        choices: tuple[str, ...],
        default: str | None,
    ) -> str:
        value = entry.get(key, default)
        if value not in choices:
            known = ", ".join(choice for choice in choices if choice)
            self._fail(table, key, f"one of {known}, not {value!r}")
        return str(value)

    def _list(self, entry: dict[str, Any], key: str, table: str) -> list[object]:
        value = entry.get(key, [])
        if not isinstance(value, list):
            self._fail(table, key, f"a list, not {value!r}")
        return value

    def _tables(
        self, data: dict[str, Any], key: str, table: str
    ) -> list[tuple[str, dict[str, Any]]]:
        value = data.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
            self._fail(table, key, f"tables [{key}.NAME]")
        return list(value.items())

    def _only(self, entry: dict[str, Any], known: tuple[str, ...], table: str) -> None:
        for key in entry:
            if key not in known:
                self._fail(table, key, f"unknown key; known are {', '.join(known)}")

    def _fail(self, table: str, key: str, wanted: str) -> NoReturn:
        where = f"[{table}] " if table else ""
        message = f"{self._file}:{self._line(table, key)}: {where}{key}: {wanted}"
        raise ConfigurationError(message)

    def _line(self, table: str, key: str) -> int:
        """Find the line of *key* in *table*, or of the table's header if the key is missing."""
        header = re.compile(r"\s*\[+\s*([^\]]*?)\s*\]+\s*(#.*)?$")
        assigned = re.compile(rf"""(^|[\s{{,])["']?{re.escape(key)}["']?\s*=""")
        at, current = 1, ""
        for number, line in enumerate(self._lines, start=1):
            match = header.match(line)
            if match:
                current = match[1].replace('"', "")
                if current in {table, f"{table}.{key}"}:
                    at = number
            elif current == table and assigned.search(line):
                return number
        return at
