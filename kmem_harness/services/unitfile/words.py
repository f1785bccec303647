"""Split values into words and put variables in, with systemd's rules of quoting and escaping."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "WHITESPACE",
    "QuotingError",
    "expand_arguments",
    "next_word",
    "split_words",
]

WHITESPACE = " \t\n\r"
_SIMPLE = {
    **dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True)),
    "\\": "\\",
    '"': '"',
    "'": "'",
    "s": " ",
}
#: Letter: how many digits follow, in which base.
_NUMBERED = {"x": (2, 16), "u": (4, 16), "U": (8, 16)}
_BRACED = re.compile(r"\$(?:\$|\{([^}]*)\})")
_LARGEST_CHARACTER = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)
_LARGEST_BYTE = 0xFF


class QuotingError(ValueError):
    """A quote that is not closed."""


def next_word(text: str, at: int = 0, *, escapes: bool = True) -> tuple[str | None, int]:
    """Take the word of *text* that begins at or after *at*; ``None`` at the end.

    Gives the word unquoted, with C escapes replaced if *escapes* (an escape systemd does not know
    stays as it stands), and where the next one begins.
    Raises: QuotingError.
    Source: extract-word.c of systemd 252, EXTRACT_UNQUOTE | EXTRACT_CUNESCAPE.
    """
    at = _skip(text, at)
    if at >= len(text):
        return None, at
    word: list[str] = []
    quote = ""
    while at < len(text):
        char = text[at]
        if char == "\\" and escapes:
            taken, at = _unescape(text, at)
            word.append(taken)
            continue
        if quote:
            if char == quote:
                quote = ""
            else:
                word.append(char)
        elif char in "\"'":
            quote = char
        elif char in WHITESPACE:
            break
        else:
            word.append(char)
        at += 1
    if quote:
        raise QuotingError(f"a quote ({quote}) is not closed")
    return _joined(word), _skip(text, at)


def split_words(text: str, *, escapes: bool = True) -> list[str]:
    """Split all of *text*; see :func:`next_word`."""
    found = []
    word, at = next_word(text, escapes=escapes)
    while word is not None:
        found.append(word)
        word, at = next_word(text, at, escapes=escapes)
    return found


def _joined(parts: list[str]) -> str:
    """Put a word together in which bytes stand for parts of characters."""
    word = "".join(parts)
    if word.isascii():
        return word
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in WHITESPACE:
        at += 1
    return at


def _unescape(text: str, at: int) -> tuple[str, int]:
    """Read the escape at *at*; one that means nothing is kept."""
    letter = text[at + 1 : at + 2]
    if letter in _SIMPLE and letter:
        return _SIMPLE[letter], at + 2
    length, base = _NUMBERED.get(letter, (3, 8))
    start = at + 2 if letter in _NUMBERED else at + 1
    digits = text[start : start + length]
    try:
        value = int(digits, base) if len(digits) == length and digits.isalnum() else 0
    except ValueError:
        value = 0
    if letter in ("u", "U") and 0 < value <= _LARGEST_CHARACTER and value not in _SURROGATES:
        return chr(value), start + length
    if letter not in ("u", "U") and 0 < value <= _LARGEST_BYTE:
        # A byte, which may be one of several that make a character.
        return bytes((value,)).decode("utf-8", "surrogateescape"), start + length
    return text[at : at + 2], at + 2


def expand_arguments(arguments: list[str], environment: Mapping[str, str]) -> list[str]:
    """Put variables into a command line, as systemd.service(5) has it under COMMAND LINES.

    ``$FOO`` as a word of its own becomes as many words as its value has; ``${FOO}`` anywhere
    becomes the value; ``$$`` is a dollar. What is not set is empty.
    """
    found: list[str] = []
    for argument in arguments:
        if argument[:1] == "$" and argument[1:2] not in ("", "{", "$"):
            try:
                found += split_words(environment.get(argument[1:], ""), escapes=False)
            except QuotingError:
                found += environment.get(argument[1:], "").split()
        else:
            found.append(
                _BRACED.sub(
                    lambda match: "$" if match[1] is None else environment.get(match[1], ""),
                    argument,
                )
            )
    return found
