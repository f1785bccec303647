"""Read an ``EnvironmentFile=``: shell-like quoting, no expansion. Knows no units.

Source: parse_env_file_internal in env-file.c of systemd 252, whose states and ways between them these
are. A quote that closes ends a part of a value, not the value: another part may follow.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["parse_environment_file"]

_SPACE = " \t\n\r"
_NEWLINE = "\n\r"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class _Variable:
    """The variable that is being read."""

    def __init__(self) -> None:
        self.key = ""
        self._value: list[str] = []
        self._kept = 0  # what stands before space at the end, if that is not quoted

    def name(self, char: str) -> None:
        self.key += char

    def add(self, char: str) -> None:
        self._value.append(char)
        self._kept = len(self._value)

    def add_escaped(self, char: str) -> None:
        self._value += ["\\", char]
        self._kept = len(self._value)

    def space(self, char: str) -> None:
        self._value.append(char)

    def keep(self, _: str) -> None:
        self._kept = len(self._value)

    def as_pair(self) -> Iterator[tuple[str, str]]:
        """Give name and value, if that is a name."""
        name = self.key.rstrip(_SPACE)
        if _NAME.fullmatch(name):
            yield name, "".join(self._value[: self._kept])


_Way = tuple[str, str, "Callable[[_Variable, str], None] | None"]
_ANY = ""
#: State: which characters lead where, and what is done with them; the first that fits counts.
_WAYS: dict[str, tuple[_Way, ...]] = {
    "before key": (
        ("#;", "comment", None),
        (_SPACE, "before key", None),
        (_ANY, "key", _Variable.name),
    ),
    "key": (
        (_NEWLINE, "before key", None),
        ("=", "before value", None),
        (_ANY, "key", _Variable.name),
    ),
    "before value": (
        (_NEWLINE, "before key", None),
        ("'", "single quotes", None),
        ('"', "double quotes", None),
        ("\\", "escaped", None),
        (_SPACE, "before value", None),
        (_ANY, "value", _Variable.add),
    ),
    "value": (
        (_NEWLINE, "before key", None),
        ("\\", "escaped", _Variable.keep),
        (_SPACE, "value", _Variable.space),
        (_ANY, "value", _Variable.add),
    ),
    "escaped": ((_NEWLINE, "value", None), (_ANY, "value", _Variable.add)),
    "single quotes": (("'", "before value", None), (_ANY, "single quotes", _Variable.add)),
    "double quotes": (
        ('"', "before value", None),
        ("\\", "escaped in quotes", None),
        (_ANY, "double quotes", _Variable.add),
    ),
    # Only what would be special in double quotes loses its backslash there.
    "escaped in quotes": (
        ('"\\`$', "double quotes", _Variable.add),
        ("\n", "double quotes", None),
        (_ANY, "double quotes", _Variable.add_escaped),
    ),
    "comment": (
        ("\\", "escaped comment", None),
        (_NEWLINE, "before key", None),
        (_ANY, "comment", None),
    ),
    "escaped comment": ((_ANY, "comment", None),),
}
_OF_A_VALUE = (
    *("before value", "value", "escaped", "single quotes", "double quotes", "escaped in quotes"),
)


def parse_environment_file(text: str) -> Iterator[tuple[str, str]]:
    """Give the variables of a file; lines that set nothing are passed over, as systemd does."""
    state, variable = "before key", _Variable()
    for char in text:
        _, following, act = next(way for way in _WAYS[state] if not way[0] or char in way[0])
        if act is not None:
            act(variable, char)
        if following == "before key" and state != following:
            if state in _OF_A_VALUE:
                yield from variable.as_pair()
            variable = _Variable()
        state = following
    if state in _OF_A_VALUE:
        yield from variable.as_pair()
