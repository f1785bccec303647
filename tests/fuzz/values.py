"""Readers of single values: sizes, rules, names, control files, what options and units hold."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kmem_harness.core.profiles import profile_named
from kmem_harness.core.releases import PROFILE_NAMES
from kmem_harness.core.sizes import parse_size
from kmem_harness.core.tree import MemcgTree
from kmem_harness.experiments.experiment_file import factor_of
from kmem_harness.faults.rule import parse_rule
from kmem_harness.handles import limit_text
from kmem_harness.pytest_plugin import reading
from kmem_harness.services.unitfile import values
from kmem_harness.services.unitfile.environment import parse_environment_file
from kmem_harness.services.unitfile.names import escape, parse_name, slice_path, unescape
from kmem_harness.services.unitfile.readers import Context, commands, conditions, variables
from kmem_harness.services.unitfile.specifiers import Directories, Specifiers
from kmem_harness.services.unitfile.syntax import Place
from kmem_harness.services.unitfile.words import (
    QuotingError,
    expand_arguments,
    split_words,
)
from tests.fuzz.reader import Reader, of_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuzz.reader import Read

__all__ = ["READERS"]

_CONTEXT = Context(
    Specifiers(parse_name("a-b@c.service"), "/nowhere/a-b@.service", Directories("/base")),
    Place("a.service", 1),
)
_SIZES = (b"4096", b"8k", b"8MiB", b"1G", b"-1", b"max", b"9223372036854775807", b"10%", b"1.5M")
_UNITS = (b"k", b"K", b"MiB", b"G", b"T", b"P", b"E", b"B", b"iB", b"%", b" ", b"0x", b"infinity")
_COMMANDS = (
    b"/bin/true",
    b"-/bin/sh -c 'echo $$ ${A}' \"b c\" \\x41 ; /bin/false",
    b"@/bin/sh sh %i %% %n \\; x",
    b"+!/usr/bin/env A=b",
)
_PARTS = (
    *(b"fork", b"clone", b"socket,mkdir", b"%file", b"charge", b"all", b"kind=task", b"comm="),
    *(b":error=", b"ENOMEM", b":when=", b"1..3+2", b"..", b"+", b":delay_enter=", b"10ms"),
    *(b":prob=0.5", b":seed=1", b":then=persist", b":path=/x*", b":count", b"!", b",", b":"),
)


def _read_value(text: str) -> None:
    """Read *text* as each value that a unit file can hold."""
    for read in (
        *(values.parse_boolean, values.parse_seconds, values.parse_timeout, values.parse_memory),
        *(values.parse_tasks, values.parse_number, values.parse_mode, values.parse_signal),
        *(values.parse_exit_statuses, values.parse_limit),
    ):
        with suppress(ValueError):
            read(text)


def _read_option(text: str) -> None:
    here = Path("/tmp")
    for read in (
        *(reading.limit, reading.docker_listener, reading.kernel, reading.runtime, reading.path),
        *(reading.keep, reading.switch, reading.count, reading.seconds, reading.increase),
        reading.reports,
    ):
        with suppress(ValueError):
            read(text, here)


def _read_names(text: str) -> None:
    if unescape(escape(text)) != text.encode("utf-8", "replace").decode():
        raise AssertionError("what is escaped comes back as something else")
    unescape(text, path=True)
    slice_path(text)
    parse_name(text).drop_in_folders()


def _read_words(text: str) -> None:
    words = split_words(text)
    expand_arguments(words, {"A": text, "B": ""})


@contextmanager
def _control_files() -> Iterator[Read]:
    """Write to each file of each kernel's memcgs in turn; the names of the files come round."""
    trees = []
    for name in PROFILE_NAMES:
        tree = MemcgTree(profile_named(name), stock=False, use_hierarchy=True)
        tree.make("/a")
        trees += [(tree, file) for file in tree.ls("/a")]
    turn = 0

    def read(data: bytes) -> None:
        nonlocal turn
        turn = (turn + 1) % len(trees)
        tree, file = trees[turn]
        tree.write("/a", file, data.decode("utf-8", "surrogateescape"))

    yield read


READERS = {
    "size": Reader(of_text(parse_size), _SIZES, _UNITS),
    "limit": Reader(of_text(limit_text), _SIZES, _UNITS),
    "control file": Reader(
        _control_files, (*_SIZES, b"1\n", b"0", b"+1", b"3 4 8M"), _UNITS, errors=(OSError,)
    ),
    "fault rule": Reader(
        of_text(parse_rule),
        (
            b"fork:error=ENOMEM:when=3",
            b"socket,mkdir:error=ENOMEM:when=2..5+2:comm=sh",
            b"kind=task:delay_enter=10ms:prob=0.5:seed=7",
            b"charge:error=12:when=1+:then=persist:path=/tmp/*",
        ),
        _PARTS,
        share=0.3,
    ),
    "factor": Reader(of_text(factor_of), (b"2x", b"1.5", b"10")),
    "unit value": Reader(
        of_text(_read_value),
        (*_SIZES, b"5min 20s", b"yes", b"SIGTERM", b"RTMIN+3", b"0755", b"1 TEMPFAIL SIGKILL"),
        (*_UNITS, b"ms", b"us", b"min", b"h", b"SIG", b"RTMAX-", b"RTMIN+", b":", b"."),
    ),
    "option": Reader(
        of_text(_read_option),
        (*_SIZES, b"json:a.json,html:b.html", b"10%", b"failed", b"true", b"5.10", b"0.5"),
        (b"json:", b"html:", b",", b"\n", b"docker", b"local", b"native", b"3.8"),
    ),
    "unit name": Reader(
        of_text(_read_names),
        (b"a.service", b"web-front.slice", b"a-b@c\\x2dd.service", b"-.slice"),
        (b"@", b".", b"-", b"\\x2d", b".service", b".slice", b".target"),
        errors=(ValueError,),
    ),
    "words": Reader(
        of_text(_read_words),
        _COMMANDS,
        (b'"', b"'", b"\\x", b"\\u00", b"$", b"${", b"}"),
        errors=(QuotingError,),
    ),
    "command line": Reader(
        of_text(lambda text: commands(text, _CONTEXT)),
        _COMMANDS,
        (b"%", b"%i", b"%%", b"-", b"@", b":", b"+", b"!", b"!!", b" ; ", b"\\;"),
        errors=(ValueError,),
    ),
    "condition": Reader(
        of_text(lambda text: (conditions("PathExists")(text, _CONTEXT), variables(text, _CONTEXT))),
        (b"|!/etc/passwd", b"A=b", b"%t/x"),
        (b"%", b"|", b"!", b"="),
        errors=(ValueError,),
    ),
    "environment file": Reader(
        of_text(lambda text: list(parse_environment_file(text))),
        (b"A=1\nB='x y'\n# c\nC=\"\\$d\" \nD=a\\\nb\n",),
        (b"A=", b"'", b'"', b"\\", b"\n", b"#", b";"),
    ),
}
