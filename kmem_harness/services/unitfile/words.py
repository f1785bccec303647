"""Split values into words and put variables in, with systemd's rules of quoting and escaping."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "WHITESPACE",
    "QuotingError",
    "expand_arguments",
    "next_word",
    "parse_environment_file",
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
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_BRACED = re.compile(r"\$(?:\$|\{([^}]*)\})")
_LARGEST_CHARACTER = 0x10FFFF


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
    return "".join(word), _skip(text, at)


def split_words(text: str, *, escapes: bool = True) -> list[str]:
    """Split all of *text*; see :func:`next_word`."""
    found = []
    word, at = next_word(text, escapes=escapes)
    while word is not None:
        found.append(word)
        word, at = next_word(text, at, escapes=escapes)
    return found


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
    if 0 < value <= (_LARGEST_CHARACTER if letter in "uU" else 0xFF):
        return chr(value), start + length
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


def parse_environment_file(text: str) -> Iterator[tuple[str, str]]:
    """Give the variables of an ``EnvironmentFile=``: shell-like quoting, no expansion.

    Lines that set nothing are passed over, as systemd does. Source: env-file.c of systemd 252.
    """
    at = 0
    while at < len(text):
        at = _skip(text, at)
        if at < len(text) and text[at] in "#;":
            at = _end_of_line(text, at)
            continue
        equals = text.find("=", at)
        end = _end_of_line(text, at)
        if equals < 0 or equals > end:
            at = end + 1
            continue
        name = text[at:equals].rstrip(WHITESPACE)
        value, at = _environment_value(text, equals + 1)
        if _NAME.fullmatch(name):
            yield name, value


def _end_of_line(text: str, at: int) -> int:
    """Find the newline that ends a line; an escaped one does not."""
    while at < len(text) and text[at] != "\n":
        at += 2 if text[at] == "\\" else 1
    return min(at, len(text))


def _environment_value(text: str, at: int) -> tuple[str, int]:
    value: list[str] = []
    kept = 0  # what stands before trailing space that is not quoted
    quote = ""
    while at < len(text) and text[at] in " \t":
        at += 1
    while at < len(text):
        char = text[at]
        following = text[at + 1 : at + 2]
        if char == "\\" and quote != "'":
            # In double quotes only what would be special loses its backslash.
            if following != "\n":
                value.append(following if not quote or following in '"\\`$' else char + following)
            kept = len(value)
            at += 2
            continue
        if quote:
            if char == quote:
                quote = ""
            else:
                value.append(char)
            kept = len(value)
        elif char == "\n":
            break
        elif char in "\"'" and not value:
            quote = char
        else:
            value.append(char)
            kept = kept if char in WHITESPACE else len(value)
        at += 1
    return "".join(value[:kept]), at + 1
