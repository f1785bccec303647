"""Read fault rules: strace's ``SET:error=ERRNO:when=FIRST[..LAST][+STEP]``, and what we add to it.

A rule is text up to here and data from here on. Every error names the rule, its part and a remedy.
Source: strace(1), "Tampering"; `when`'s numbers mean the same here.
"""

from __future__ import annotations

import difflib
import errno
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.faults import calls
from kmem_harness.faults.start import Start, read_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["FaultRuleError", "Rule", "expand", "parse_rule", "parse_rules"]

_WHOLE = re.compile(r"[0-9]{1,18}")
_WHEN = re.compile(
    r"(?P<first>[0-9]{1,18})(\.\.(?P<last>[0-9]{1,18}))?(?P<plus>\+(?P<step>[0-9]{0,18}))?"
)
_TIME = re.compile(r"(?P<number>[0-9]{1,18}(\.[0-9]{1,18})?)(?P<unit>us|ms|s|)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1e-6}  # strace's own default: microseconds
_MAX_DELAY_SECONDS = 60.0
_MAX_ERRNO = 4095
#: strace's, which cannot be had here, each with the reason.
_NOT_HERE = {
    "retval": "a call that did not run has no value to give; use error=ERRNO",
    "signal": "a signal is not a refusal; send it with the box's own signal()",
    "syscall": "another call cannot be put in its place",
    "delay_exit": "a call that runs is out of our hands; use delay_enter=TIME",
    "poke_enter": "memory of the target is never written",
    "poke_exit": "memory of the target is never written",
}


class FaultRuleError(ConfigurationError):
    """A fault rule cannot be read; the message names it, the part and a remedy."""


@dataclass(frozen=True)
class Rule:
    """One rule, as read. Units: seconds; ``last`` and ``limit`` of ``None`` are none.

    ``when`` counts the calls that match ``syscalls``, ``kinds`` and ``comm`` in one container.
    """

    text: str
    syscalls: frozenset[str]
    #: Calls of these that count only where their arguments have them make something: ``charge``.
    charging: frozenset[str] = frozenset()
    #: Calls of these that count only where they make a process: what libc makes of ``fork``.
    forking: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    comm: str | None = None
    #: A pattern that is counted and decides nothing: a target can rewrite a path after our look.
    path: str | None = None
    error: int | None = None
    delay_seconds: float = 0.0
    first: int = 1
    last: int | None = None
    step: int = 1
    prob: float = 1.0
    seed: int | None = None
    #: It counts from this moment on, ``None`` for the first call.
    start: Start | None = None
    #: After its first hit a rule hits nothing more ("recover"), or everything ("persist").
    then: str | None = None

    #: It may be that it never does anything: nobody is told then.
    optional: bool = False

    @property
    def counts_only(self) -> bool:
        """Whether it does nothing to any call."""
        return self.error is None and not self.delay_seconds

    @property
    def error_name(self) -> str:
        """The errno's name, its number where it has none."""
        return "" if self.error is None else errno.errorcode.get(self.error, str(self.error))

    def wants(self, number: int) -> bool:
        """Say whether ``when`` names the *number*-th matching call, from 1 on."""
        if number < self.first or (self.last is not None and number > self.last):
            return False
        return (number - self.first) % self.step == 0


def parse_rules(texts: Iterable[str], named: Mapping[str, str] | None = None) -> tuple[Rule, ...]:
    """Read several rules; *named* are those that plugins offer. Raises: FaultRuleError."""
    if isinstance(texts, str):
        raise FaultRuleError(f"fault rules {texts!r}: give a list of rules, not one text")
    return tuple(parse_rule(expand(text, named or {})) for text in texts)


def expand(text: str, named: Mapping[str, str]) -> str:
    """Put the rule that a plugin offers in the place of its name; later parts beat its own."""
    if not isinstance(text, str):
        raise FaultRuleError(f"fault rule {text!r} is no text; write 'socket:error=ENOMEM:when=3'")
    name, colon, more = text.partition(":")
    if name not in named:
        return text
    theirs = {_name_of(part) for part in more.split(":")}
    kept = [part for part in named[name].split(":") if _name_of(part) not in theirs]
    return ":".join(kept) + colon + more


def parse_rule(text: str) -> Rule:
    """Read one rule. Raises: FaultRuleError."""
    return _Reader(text).read()


def _name_of(part: str) -> str:
    return part.partition("=")[0]


class _Reader:
    """Reads one rule, part by part."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise FaultRuleError(
                f"fault rule {text!r} is no text; write 'socket:error=ENOMEM:when=3'"
            )
        self._text = text
        self._fields: dict[str, object] = {}
        self._part = ""

    def read(self) -> Rule:
        first, *parts = self._text.split(":")
        self._part = first
        syscalls: frozenset[str] | None = None
        if first.startswith("kind="):
            parts.insert(0, first)
        else:
            syscalls = self._set(first)
        given: set[str] = set()
        for part in parts:
            self._part = part
            name, equals, value = part.partition("=")
            if name in given:
                self._fail("is there twice; keep one")
            given.add(name)
            self._take(name, value, has_value=bool(equals))
        kinds: frozenset[str] = self._fields.pop("kinds", frozenset())  # type: ignore[assignment]
        if kinds:
            able = {
                name
                for name in (calls.injectable() if syscalls is None else syscalls)
                if calls.call_named(name).may_make(kinds)
            }
            self._part = f"kind={','.join(sorted(kinds))}"
            if not able:
                self._fail("none of these calls makes such an object; name one that does")
            syscalls = frozenset(able)
        self._check(given)
        return Rule(self._text, syscalls or frozenset(), kinds=kinds, **self._fields)  # type: ignore[arg-type]

    def _check(self, given: set[str]) -> None:
        self._part = self._text
        if not given & {"error", "delay_enter", "count"}:
            self._fail("does nothing; give error=ERRNO, delay_enter=TIME, or count")
        if "count" in given and given & {"error", "delay_enter", "then", "prob"}:
            self._fail("counts and acts at once; leave out count: every rule counts")
        if "seed" in given and "prob" not in given:
            self._fail("has a seed and nothing to draw; give prob=P, too")
        last = self._fields.get("last")
        if self._fields.get("then") == "persist" and last not in (None, self._fields.get("first")):
            self._fail("ends and persists at once; leave out one of when=..LAST and then=persist")

    def _set(self, text: str) -> frozenset[str]:
        found: set[str] = set()
        charging: set[str] = set()
        meant: set[str] = set()
        for word in text.split(","):
            self._part = word
            if word == calls.CHARGE:
                charging |= calls.charges()
            elif word in calls.GROUPS:
                found |= calls.GROUPS[word]
            elif word in calls.injectable():
                found.add(word)
                meant |= set(calls.ALSO.get(word, ()))
            elif not word:
                self._fail("names no call; write one such as socket, or charge for any")
            else:
                known = [calls.CHARGE, *calls.GROUPS, *calls.injectable()]
                self._fail(
                    "no such system call can be failed here", _similar(word, known, "name a call")
                )
        forking = set(calls.ALSO["fork"]) if "fork" in found else set()
        self._fields["charging"] = frozenset(charging - found - meant)
        self._fields["forking"] = frozenset(forking - found - charging)
        return frozenset(found | charging | meant)

    def _take(self, name: str, value: str, *, has_value: bool) -> None:
        readers: dict[str, Callable[[str], None]] = {
            "error": self._error,
            "when": self._when,
            "kind": self._kind,
            "comm": self._comm,
            "path": self._path,
            "prob": self._prob,
            "seed": self._seed,
            "then": self._then,
            "delay_enter": self._delay,
            "from": self._from,
            "optional": self._optional,
        }
        if name == "count" and not has_value:
            return
        if name in _NOT_HERE:
            self._fail(f"strace knows {name}=, and it cannot be had here: {_NOT_HERE[name]}")
        if name not in readers:
            known = [*(f"{one}=" for one in readers), "count"]
            self._fail("no such part", f"known are {', '.join(known)}")
        if not value:
            self._fail("has no value", f"write {name}=VALUE")
        readers[name](value)

    def _error(self, value: str) -> None:
        if _WHOLE.fullmatch(value) and 0 < int(value) <= _MAX_ERRNO:
            self._fields["error"] = int(value)
            return
        number = getattr(errno, value, None) if value.startswith("E") else None
        if not isinstance(number, int):
            known = sorted(errno.errorcode.values())
            self._fail("no such errno", _similar(value, known, "name one such as ENOMEM"))
        self._fields["error"] = number

    def _when(self, value: str) -> None:
        match = _WHEN.fullmatch(value)
        if match is None:
            self._fail("write when=FIRST, FIRST+, FIRST+STEP, FIRST..LAST or FIRST..LAST+STEP")
        first = int(match["first"])
        step = int(match["step"] or 1)
        # As strace reads it: a bare number is that call alone.
        last = int(match["last"]) if match["last"] else None if match["plus"] else first
        if first < 1 or step < 1:
            self._fail("FIRST and STEP count from 1")
        if last is not None and last < first:
            self._fail(f"ends before it begins; write when={last}..{first}")
        self._fields |= {"first": first, "last": last, "step": step}

    def _kind(self, value: str) -> None:
        wanted = value.split(",")
        for kind in wanted:
            if kind not in calls.kinds():
                known = sorted(calls.kinds())
                self._fail(f"no such kind of object as {kind!r}", f"known are {', '.join(known)}")
        self._fields["kinds"] = frozenset(wanted)

    def _comm(self, value: str) -> None:
        if len(value.encode(errors="replace")) > 15:  # noqa: PLR2004 - TASK_COMM_LEN - 1
            self._fail("the kernel keeps 15 bytes of a name", f"write comm={value[:15]}")
        self._fields["comm"] = value

    def _path(self, value: str) -> None:
        self._fields["path"] = value

    def _prob(self, value: str) -> None:
        try:
            prob = float(value)
        except ValueError:
            prob = -1.0
        if not 0 < prob <= 1:
            self._fail("a probability is a number above 0 and at most 1", "write prob=0.1")
        self._fields["prob"] = prob

    def _seed(self, value: str) -> None:
        if not _WHOLE.fullmatch(value):
            self._fail("a seed is a whole number from 0 on, of at most 18 digits", "write seed=1")
        self._fields["seed"] = int(value)

    def _optional(self, value: str) -> None:
        if value not in ("0", "1"):
            self._fail("is neither 1 nor 0", "write optional=1")
        self._fields["optional"] = value == "1"

    def _from(self, value: str) -> None:
        start = read_start(value)
        if start is None:
            known = ["exec", "mark", *calls.injectable()]
            self._fail(
                "no such moment", _similar(value, known, "name a call, a path, exec or mark")
            )
        self._fields["start"] = start

    def _then(self, value: str) -> None:
        if value not in ("recover", "persist"):
            self._fail("known are then=recover and then=persist")
        self._fields["then"] = value

    def _delay(self, value: str) -> None:
        match = _TIME.fullmatch(value)
        seconds = float(match["number"]) * _UNITS[match["unit"]] if match else 0.0
        if not 0 < seconds <= _MAX_DELAY_SECONDS:
            self._fail(
                f"a delay is a time above 0 and at most {_MAX_DELAY_SECONDS:.0f}s",
                "write delay_enter=10ms; units are us, ms and s",
            )
        self._fields["delay_seconds"] = seconds

    def _fail(self, rule: str, remedy: str | None = None) -> NoReturn:
        what = f"fault rule {self._text!r}"
        if self._part != self._text:
            what += f", part {self._part!r}"
        raise FaultRuleError(f"{what}: {rule}" + (f"; {remedy}" if remedy else ""))


def _similar(word: str, known: Sequence[str], otherwise: str) -> str:
    found = difflib.get_close_matches(word, known, n=3)
    return f"did you mean {' or '.join(found)}?" if found else otherwise
