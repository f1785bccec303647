"""Read the text of unit files as systemd.syntax(7) has it. Knows sections and lines, and no key's meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kmem_harness.core.errors import ConfigurationError

__all__ = ["Assignment", "Complain", "Place", "UnitFileError", "parse_unit_text", "read_unit_file"]

_COMMENT = "#;"
_SPACE = " \t\n\r"
#: systemd's own bound on one logical line.
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a setting was read. ``line`` counts from 1; 0 for what came from a command line."""

    file: str
    line: int

    def __str__(self) -> str:
        """Say it as compilers do."""
        return f"{self.file}:{self.line}" if self.line else self.file


class UnitFileError(ConfigurationError):
    """A unit file cannot be used as it stands; the message names file, line, rule and remedy."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place


@dataclass(frozen=True)
class Assignment:
    """One ``key=value`` of a unit file, whole lines joined, nothing unquoted or expanded yet."""

    section: str
    key: str
    value: str
    place: Place


Complain = Callable[[Place, str], None]


def read_unit_file(path: str | Path, complain: Complain = lambda *_: None) -> list[Assignment]:
    """Read the unit file or drop-in *path*, as :func:`parse_unit_text` does.

    Raises: UnitFileError, ConfigurationError.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        message = f"unit file {str(path)!r} cannot be read: {error.strerror}"
        raise ConfigurationError(message) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UnitFileError(Place(str(path), line), "not UTF-8; save the file as UTF-8") from error
    return parse_unit_text(text.removeprefix("\ufeff"), str(path), complain)


def parse_unit_text(text: str, file: str, complain: Complain = lambda *_: None) -> list[Assignment]:
    """Give every assignment of *text* in order.

    A line that ends with a backslash goes on in the next one, comments between them left out. A line
    that is neither a section, an assignment nor a comment is left out and told to *complain*, where
    systemd warns and goes on. Raises: UnitFileError for a section's line that is not whole.
    """
    found: list[Assignment] = []
    section: str | None = None
    joined, began = "", 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.lstrip(_SPACE)
        if line[:1] and line[0] in _COMMENT:
            continue
        began = began or number
        joined += line
        if len(joined) > _LONGEST_LINE:
            raise UnitFileError(Place(file, began), f"a line is longer than {_LONGEST_LINE} bytes")
        if _goes_on(joined):
            joined = joined[:-1] + " "
            continue
        place, joined, line, began = Place(file, began), "", joined.strip(_SPACE), 0
        if line.startswith("["):
            section = _section(line, place)
        elif line:
            found += _assignment(line, section, place, complain)
    if joined.strip(_SPACE):
        # As systemd reads it: a backslash at the end of a file joins nothing.
        found += _assignment(joined.strip(_SPACE), section, Place(file, began), complain)
    return found


def _goes_on(line: str) -> bool:
    """Say whether the last backslash of *line* is one that no other escapes."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _section(line: str, place: Place) -> str:
    name = line[1:-1]
    if not line.endswith("]") or not name or "[" in name or "]" in name:
        raise UnitFileError(place, f"invalid section header {line!r}; write it as [Service]")
    return name


def _assignment(
    line: str, section: str | None, place: Place, complain: Complain
) -> list[Assignment]:
    key, equals, value = line.partition("=")
    key = key.rstrip(_SPACE)
    if section is None:
        wrong = f"{line[:60]!r} stands outside of a section; put it below one such as [Service]"
    elif not equals:
        wrong = f"missing '=' in {line[:60]!r}; write KEY=VALUE, or # before a comment"
    elif not key:
        wrong = f"missing key before '=' in {line[:60]!r}"
    else:
        return [Assignment(section, key, value.strip(_SPACE), place)]
    complain(place, wrong)
    return []
