"""Turn the text written to a limit or integer file into a number, exactly as a kernel does.

Knows the grammars of the releases (K16-K24, K27); knows no memcgs. Text wraps, rounds and is
trimmed here and nowhere else.
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

from kmem_harness.core.errors import kernel_error

__all__ = ["PAGE", "IntegerSyntax", "LimitSyntax"]

#: Of the kernels that are emulated, whose figures are those of x86; this host may have another.
PAGE = 4096
_WRAP = 1 << 64
_BLANKS = " \t\n\v\f\r"
# K20: 0x needs a hex digit after it, else the 0 stands alone as octal.
_NUMBER = re.compile(r"0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*)|")
_SHIFTS = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


def _leading_number(text: str) -> tuple[int, str]:
    """Read the number *text* starts with, 0 if none, and give back the rest (K20, K22)."""
    match = _NUMBER.match(text)
    if match is None:  # pragma: no cover - the last alternative matches everything
        return 0, text
    if match[1]:
        value = int(match[1], 16)
    elif match[2]:
        value = int(match[2], 8)
    else:
        value = int(match[3] or "0")
    return value % _WRAP, text[match.end() :]


def _as_the_kernel_sees(text: str) -> str:
    """Cut at the first NUL and strip blanks from both ends (K18)."""
    return text.partition("\0")[0].strip(_BLANKS)


class LimitSyntax(NamedTuple):
    """How one release reads a limit.

    :param max_nbytes: the longest text taken; longer is E2BIG (K17).
    :param suffixes: the suffix letters taken, in lower case (K21).
    :param unlimited: the value of "no limit" (K2).
    :param rounds_up: to the next page, where later kernels round down (K23).
    :param saturates: a value past the top becomes ``unlimited`` instead of wrapping (K24).
    :param loose_minus: "-01" is "-1" too; later kernels take exactly "-1" (K19).
    """

    max_nbytes: int
    suffixes: str
    unlimited: int
    rounds_up: bool
    saturates: bool
    loose_minus: bool

    def parse(self, text: str, file: str) -> int:
        """Read *text* as a limit in bytes.

        Raises: OSError E2BIG, EINVAL.
        """
        if len(text.encode(errors="replace")) > self.max_nbytes:
            why = f"at most {self.max_nbytes} bytes are taken"
            raise kernel_error(errno.E2BIG, why, rule="K17", file=file, value=text)
        body = _as_the_kernel_sees(text)
        if body.startswith("-"):
            return self._parse_negative(body, text, file)
        value, rest = _leading_number(body)
        if rest[:1].lower() in self.suffixes and rest:
            value = (value << _SHIFTS[rest[0].lower()]) % _WRAP
            rest = rest[1:]
        if rest:
            why = f"{rest!r} follows the number"
            raise kernel_error(errno.EINVAL, why, rule="K20, K21", file=file, value=text)
        return self._round(value)

    def _parse_negative(self, body: str, text: str, file: str) -> int:
        digits = body[1:]
        is_one = digits == "1" or (
            self.loose_minus and digits.isascii() and digits.isdigit() and int(digits) % _WRAP == 1
        )
        if not is_one:
            why = "the only negative limit is -1"
            raise kernel_error(errno.EINVAL, why, rule="K19", file=file, value=text)
        return self.unlimited

    def _round(self, value: int) -> int:
        if not self.rounds_up:
            return min(value // PAGE * PAGE, self.unlimited)
        rounded = (value + PAGE - 1) // PAGE * PAGE
        if rounded < _WRAP:
            return rounded
        return self.unlimited if self.saturates else rounded % _WRAP


class IntegerSyntax(NamedTuple):
    """How one release reads an integer file (K27).

    :param max_nbytes: the longest text taken.
    :param strict: later kernels take a leading ``+``, at most one trailing newline and no other
        blanks, need a digit, and answer ERANGE past 64 bits; earlier ones trim and wrap.
    """

    max_nbytes: int
    strict: bool

    def parse(self, text: str, file: str, *, signed: bool = False) -> int:
        """Read *text* as an integer.

        Raises: OSError E2BIG, EINVAL, ERANGE.
        """
        if len(text.encode(errors="replace")) > self.max_nbytes:
            why = f"at most {self.max_nbytes} bytes are taken"
            raise kernel_error(errno.E2BIG, why, rule="K27", file=file, value=text)
        if not self.strict and not text:
            raise kernel_error(errno.EINVAL, "empty", rule="K27", file=file, value=text)
        body = self._strict_body(text) if self.strict else _as_the_kernel_sees(text)
        negative = signed and body.startswith("-")
        if negative:
            body = body[1:]
        value, rest = self._number(body)
        if rest or (self.strict and not body):
            raise kernel_error(errno.EINVAL, "not an integer", rule="K27", file=file, value=text)
        if self.strict and value >= (_WRAP >> 1 if signed else _WRAP):
            raise kernel_error(errno.ERANGE, "over 64 bits", rule="K27", file=file, value=text)
        return -value if negative else value

    def _number(self, body: str) -> tuple[int, str]:
        if not self.strict:
            return _leading_number(body)
        match = _NUMBER.match(body)
        if match is None or not match[0]:
            return 0, body
        base = 16 if match[1] else 8 if match[2] else 10
        return int(match[1] or match[0], base), body[match.end() :]

    @staticmethod
    def _strict_body(text: str) -> str:
        body = text.partition("\0")[0]
        return body.removesuffix("\n").removeprefix("+")
