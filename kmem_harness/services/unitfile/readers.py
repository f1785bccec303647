"""Read the values of unit files that are more than a number: commands, names, paths, conditions.

Every reader takes the text and where it stands, and raises ValueError with the rule and a remedy.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.costs.kinds import check_kinds
from kmem_harness.faults.rule import parse_rule
from kmem_harness.services.unitfile.names import parse_name
from kmem_harness.services.unitfile.values import (
    NO_LIMIT,
    ExitStatuses,
    parse_exit_statuses,
    parse_limit,
    parse_memory,
)
from kmem_harness.services.unitfile.words import WHITESPACE, QuotingError, next_word, split_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kmem_harness.services.unitfile.specifiers import Specifiers
    from kmem_harness.services.unitfile.syntax import Place

__all__ = [
    "Condition",
    "Context",
    "ExecCommand",
    "absolute_path",
    "account_name",
    "choice",
    "commands",
    "conditions",
    "directory_names",
    "environment_files",
    "injections",
    "kinds",
    "kmem_size",
    "resource_limit",
    "slice_name",
    "statuses",
    "text_of",
    "unit_names",
    "variables",
    "words_of",
]

Value = TypeVar("Value")
_SMALLEST_LIMIT = 4096
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)


@dataclass(frozen=True)
class Context:
    """Where a value stands, and how its specifiers expand."""

    specifiers: Specifiers
    place: Place
    #: What of a list is left out, and why: the rest of it counts, as systemd has it.
    left_out: list[str] = field(default_factory=list)

    def each(self, words: Iterable[str], read: Callable[[str], Value]) -> list[Value]:
        """Read the words of a list one by one, and note those that cannot be."""
        return [value for word in words for value in self._one(word, read)]

    def _one(self, word: str, read: Callable[[str], Value]) -> list[Value]:
        try:
            return [read(word)]
        except (ValueError, ConfigurationError) as error:
            self.left_out.append(str(error))
            return []


@dataclass(frozen=True)
class ExecCommand:
    """One command line of ``ExecStart=`` and its like; variables are not put in yet."""

    path: str
    argv: tuple[str, ...]
    place: Place
    ignore_failure: bool = False
    expand_environment: bool = True
    #: ``+`` and ``!``: runs as the manager's own user.
    privileged: bool = False


@dataclass(frozen=True)
class Condition:
    """One ``ConditionXYZ=`` or ``AssertXYZ=``."""

    kind: str
    argument: str
    negated: bool
    #: ``|``: one of those so marked must hold.
    trigger: bool


def choice(*words: str) -> Callable[[str], str]:
    """Make a reader of one of some words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not known; known are {', '.join(words)}")
        return text

    return parse


def words_of(text: str, context: Context) -> list[str]:
    """Split a value into words, specifiers expanded."""
    try:
        return context.each(split_words(text), context.specifiers.expand)
    except QuotingError as error:
        raise ValueError(f"{error} in {text!r}; close it, or write \\x22") from error


def text_of(text: str, context: Context) -> list[str]:
    """Take a value whole."""
    return [context.specifiers.expand(text)]


def unit_names(text: str, context: Context) -> list[str]:
    """Read a list of units."""
    return context.each(words_of(text, context), lambda word: parse_name(word).text)


def slice_name(text: str) -> str:
    """Read the name of a slice."""
    name = parse_name(text)
    if name.type != "slice":
        raise ValueError(f"{text!r} is not a slice; write a name such as web.slice")
    return name.text


def statuses(text: str, context: Context) -> list[ExitStatuses]:
    """Read a set of exit statuses."""
    return context.each(text.split(), parse_exit_statuses)


def variables(text: str, context: Context) -> list[str]:
    """Read assignments of environment variables."""

    def read(word: str) -> str:
        if not _VARIABLE.match(word):
            raise ValueError(
                f"{word!r} sets no variable; write NAME=VALUE, quoted if it has spaces"
            )
        return word

    return context.each(words_of(text, context), read)


def directory_names(text: str, context: Context) -> list[str]:
    """Read names of directories below one of the five that a service may have."""

    def read(word: str) -> str:
        name = word.partition(":")[0]
        if os.path.isabs(name) or ".." in name.split("/"):
            raise ValueError(f"{name!r} is not a relative path without '..'")
        return name

    return context.each(words_of(text, context), read)


def absolute_path(text: str) -> str:
    """Read a path, which may have a prefix that lets it be missing."""
    bare = text.removeprefix("-").removeprefix("+")
    if not os.path.isabs(bare) and bare != "~":
        raise ValueError(f"{text!r} is not an absolute path (or ~)")
    return text


def account_name(text: str) -> str:
    """Read the name or number of a user or group. Source: valid_user_group_name, relaxed."""
    if text != text.strip() or text in (".", "..") or not text.isprintable() or set(text) & {*":/"}:
        raise ValueError(f"{text!r} is not a user's or group's name, nor a number")
    return text


def environment_files(text: str, context: Context) -> list[str]:
    """Read the path of a file of variables."""
    path = context.specifiers.expand(text)
    if not os.path.isabs(path.removeprefix("-")):
        raise ValueError(f"{path!r} is not an absolute path")
    return [path]


def kmem_size(text: str) -> int:
    """Read a limit of kernel memory. Units: bytes."""
    nbytes = parse_memory(text)
    if nbytes != NO_LIMIT and nbytes < _SMALLEST_LIMIT:
        raise ValueError(
            f"{text!r} is below one page ({_SMALLEST_LIMIT} bytes): nothing could run; write more, "
            "or infinity for no limit"
        )
    return nbytes


def injections(text: str, context: Context) -> list[str]:
    """Read a fault rule, or the name of one that a plugin has."""
    rule = context.specifiers.expand(text)
    if ":" in rule:  # else it is a name that a plugin may have given one
        parse_rule(rule)
    return [rule]


def kinds(text: str, _: Context) -> list[str]:
    """Read names of kinds of objects."""
    return sorted(check_kinds(text.split()))


def conditions(kind: str) -> Callable[[str, Context], list[Condition]]:
    """Make a reader of one kind of condition or assert."""

    def parse(text: str, context: Context) -> list[Condition]:
        argument = context.specifiers.expand(text)
        trigger = argument.startswith("|")
        argument = argument.removeprefix("|").strip(WHITESPACE)
        negated = argument.startswith("!")
        argument = argument.removeprefix("!").strip(WHITESPACE)
        return [Condition(kind, argument, negated, trigger)]

    return parse


def resource_limit(name: str) -> Callable[[str, Context], list[tuple[str, int, int]]]:
    """Make a reader of one resource limit."""
    return lambda text, _: [(name, *parse_limit(text))]


def commands(text: str, context: Context) -> list[ExecCommand]:
    """Read ``ExecStart=`` and its like. Source: config_parse_exec of systemd 252."""
    found: list[ExecCommand] = []
    at = 0
    try:
        while at < len(text):
            command, at = _command(text, at, context)
            found.append(command)
    except QuotingError as error:
        raise ValueError(f"{error} in {text!r}; close it, or write \\x22") from error
    return found


def _command(text: str, at: int, context: Context) -> tuple[ExecCommand, int]:
    first, at = next_word(text, at)
    prefixes, path = _prefixes(first or "")
    path = context.specifiers.expand(path)
    if not path or (not os.path.isabs(path) and "/" in path):
        raise ValueError(
            f"{path!r} is neither an absolute path nor a program's bare name; "
            "write the program's whole path"
        )
    argv = [] if "@" in prefixes else [path]
    while at < len(text):
        if text[at] == ";" and text[at + 1 : at + 2] in ("", *WHITESPACE):
            at += 1
            at += len(text[at:]) - len(text[at:].lstrip(WHITESPACE))
            break
        if text[at : at + 2] == "\\;" and text[at + 2 : at + 3] in ("", *WHITESPACE):
            argv.append(";")
            at += 2
            at += len(text[at:]) - len(text[at:].lstrip(WHITESPACE))
            continue
        word, at = next_word(text, at)
        if word is None:
            break
        argv.append(context.specifiers.expand(word))
    if not argv:
        raise ValueError(f"{text!r} names no argv[0] after '@'; write the name to run it under")
    return (
        ExecCommand(
            path,
            tuple(argv),
            context.place,
            ignore_failure="-" in prefixes,
            expand_environment=":" not in prefixes,
            privileged="+" in prefixes or "!" in prefixes,
        ),
        at,
    )


def _prefixes(word: str) -> tuple[str, str]:
    """Split off the special prefixes, each of which counts once (``!`` twice)."""
    seen = ""
    while word[:1] and word[0] in "-@:+!":
        if word[0] in seen and seen[-1:] + word[0] != "!!":
            break
        if word[0] in "+!" and ("+" in seen or seen.count("!") > 1):
            break
        seen += word[0]
        word = word[1:]
    return seen, word
