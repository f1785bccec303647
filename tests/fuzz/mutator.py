"""Make inputs out of examples, some hundred thousand a second. Knows bytes, and JSON where asked."""

from __future__ import annotations

import json
import re
from copy import copy
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.reader import Reader

__all__ = ["Mutator"]

#: Inputs are longer than this, or than the longest example, only where that is what is tried.
_MOST = 4096
_LONGEST = 65536
_NUMBER = re.compile(rb"-?[0-9]+")
_POWERS = tuple(2**exponent for exponent in (7, 8, 12, 15, 16, 31, 32, 63, 64, 128))
_NUMBERS = (
    *(str(near).encode() for one in _POWERS for near in (one - 1, one, -one, one + 1)),
    *(b"0", b"1", b"-1", b"00", b"-0", b"0x10", b"1_000", b"+1", b"1e3", b"1e999", b"-1e999"),
    *(b"1.5", b".5", b"5.", b"9" * 19, b"9" * 20, b"9" * 309, b"9" * 4301, b"nan", b"inf"),
    *("\xb2".encode(), "\u0661".encode(), "\uff11".encode(), b"0.1", b"1e-9", b"1e400"),
)
_ODD = (
    *(b"\0", b"\n", b"\r", b"\r\n", b"\t", b"\v", b"\f", b"\x1c", b"\x1e", b"\x7f", b"\xff"),
    *("\x85".encode(), "\u2028".encode(), "\ufeff".encode(), "é".encode(), "ß".encode()),
    *("\U0010ffff".encode(), b"\xed\xa0\x80", b"\xc3", b"\\ud800", b"\\u0000", b"\\", b"\\\n"),
    *(b'"', b"'", b"`", b"(", b")", b"[", b"]", b"{", b"}", b"<", b">", b"=", b":", b",", b";"),
    *(b"..", b"/", b"//", b"%", b"%%", b"$", b"*", b"?", b"-", b"+", b"#", b"&", b"|", b"@", b" "),
    *(b"null", b"true", b"false", b"NaN", b"Infinity", b"None", b"max", b"-1", b"infinity"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**32, 2**63, -(2**63), 2**64, 10**40, 0.5, -0.0, 1e308),
    *(
        float("inf"),
        float("-inf"),
        float("nan"),
        "",
        "x",
        "\0",
        "\ud800",
        "é",
        "/",
        "..",
        "a" * 300,
    ),
    *([], {}, [[]], [None], {"": None}, [1, 2], ["a"], {"a": 1}, "9" * 20, "-1", "1e999"),
)
_DEPTHS = (2, 30, 200, 900, 970, 990, 1000, 5000, 30_000)


class Mutator:
    """Gives one input after the other; the same ones for the same seed."""

    def __init__(self, reader: Reader, seed: str) -> None:
        self._seed = seed
        self._random = Random(seed)  # noqa: S311 - the same for the same seed, no secret
        self._examples = reader.examples
        self._most = max(_MOST, 64 + max(map(len, reader.examples)))
        self._words = (*reader.words, *_ODD, *_NUMBERS)
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            *(self._flip, self._put_byte, self._insert, self._insert, self._replace, self._replace),
            *(self._cut, self._double, self._truncate, self._splice, self._renumber),
            *(self._renumber, self._line, self._line),
        )
        self._trees: tuple[Any, ...] = ()
        if reader.is_json:
            self._trees = tuple(json.loads(example) for example in reader.examples)

    def seek(self, part: int) -> None:
        """Go on with the *part*-th part of what the seed gives: each can be had alone."""
        self._random.seed(f"{self._seed}/{part}")

    def __call__(self) -> bytes:
        """Give the next input."""
        random = self._random.random
        rare = random()
        if rare < 0.002:
            return self._extreme()
        if self._trees and rare < 0.7:
            try:
                data = json.dumps(self._changed(self._pick(self._trees))).encode()
            except RecursionError:  # nested deeper than it can be written
                return self._extreme()
            if rare < 0.6:
                return data[:_LONGEST]
        else:
            data = self._pick(self._examples)
        changes = self._changes
        for _ in range(1 + int(6 * random() * random())):
            data = changes[int(len(changes) * random())](data)
        return data[: self._most]

    def _pick(self, among: tuple[Any, ...]) -> Any:
        return among[int(len(among) * self._random.random())]

    def _at(self, data: bytes) -> int:
        return int((len(data) + 1) * self._random.random())

    # -- bytes -----------------------------------------------------------------------------

    def _flip(self, data: bytes) -> bytes:
        at = self._at(data)
        byte = data[at : at + 1]
        if not byte:
            return data
        return data[:at] + bytes((byte[0] ^ 1 << int(8 * self._random.random()),)) + data[at + 1 :]

    def _put_byte(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + bytes((int(256 * self._random.random()),)) + data[at + 1 :]

    def _insert(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._pick(self._words) + data[at:]

    def _replace(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._pick(self._words) + data[at + int(8 * self._random.random()) :]

    def _cut(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + int(1 + 16 * self._random.random()) :]

    def _double(self, data: bytes) -> bytes:
        at = self._at(data)
        piece = data[at : at + int(1 + 32 * self._random.random())]
        return data[:at] + piece * int(2 + 3 * self._random.random()) + data[at + len(piece) :]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _splice(self, data: bytes) -> bytes:
        other = self._pick(self._examples)
        return data[: self._at(data)] + other[self._at(other) :]

    def _renumber(self, data: bytes) -> bytes:
        found = list(_NUMBER.finditer(data))
        if not found:
            return self._insert(data)
        one = found[int(len(found) * self._random.random())]
        return data[: one.start()] + self._pick(_NUMBERS) + data[one.end() :]

    def _line(self, data: bytes) -> bytes:
        lines = data.split(b"\n")
        one, other = (int(len(lines) * self._random.random()) for _ in range(2))
        how = self._random.random()
        if how < 0.3:
            lines[one], lines[other] = lines[other], lines[one]
        elif how < 0.6:
            lines.insert(one, lines[other])
        elif how < 0.8:
            lines.insert(one, self._pick(self._words))
        else:
            del lines[one]
        return b"\n".join(lines)

    def _extreme(self) -> bytes:
        """Give something very long or very deep."""
        data = self._pick(self._examples)
        at = self._at(data)
        depth = self._pick(_DEPTHS)
        if self._random.random() < 0.5:
            opening, closing = self._pick(((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")")))
            middle = opening * depth + b"1" + closing * depth
        else:
            middle = self._pick(self._words) * depth
        return (data[:at] + middle + data[at:])[:_LONGEST]

    # -- trees -----------------------------------------------------------------------------

    def _changed(self, tree: Any) -> Any:
        """Give *tree* with something in it changed, and itself left as it was."""
        random = self._random.random
        if not isinstance(tree, (dict, list)) or not tree or random() < 0.1:
            return self._other(tree)
        changed = copy(tree)
        keys: Any = list(changed) if isinstance(changed, dict) else range(len(changed))
        key = keys[int(len(keys) * random())]
        how = random()
        if how < 0.75:
            changed[key] = self._changed(changed[key])
        elif how < 0.85:
            del changed[key]
        elif isinstance(changed, list):
            changed.insert(key, self._other(None))
        else:
            changed[self._key(keys)] = changed[key]
        return self._changed(changed) if random() < 0.3 and changed else changed

    def _key(self, keys: list[str]) -> str:
        if self._random.random() < 0.5:
            return str(self._pick(tuple(keys)))
        return self._pick(self._words).decode("utf-8", "replace")

    def _other(self, value: Any) -> Any:
        """Give something in the place of *value*."""
        random = self._random.random
        how = random()
        if how < 0.4:
            return self._pick(_VALUES)
        if how < 0.6:
            return self._pick(self._words).decode("utf-8", "replace")
        if isinstance(value, str):
            changes = self._changes
            changed = changes[int(len(changes) * random())](value.encode("utf-8", "replace"))
            return changed.decode("utf-8", "replace")
        if type(value) is int:
            return int(value) + int(4 * random()) - 2
        if how > 0.97:
            for _ in range(self._pick(_DEPTHS[:4])):
                value = [value] if random() < 0.5 else {"a": value}
            return value
        return self._pick(_VALUES)
