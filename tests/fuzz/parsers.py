"""The parsers, as data: what each reads, and what it is made to read. Knows nothing of how often."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from kmem_harness.core.sizes import parse_size
from kmem_harness.costs.table import load_costs
from kmem_harness.faults.rule import parse_rule
from kmem_harness.replay.trace import load_trace
from kmem_harness.services.names import parse_name
from kmem_harness.services.syntax import parse_unit_text
from kmem_harness.services.words import parse_environment_file

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PARSERS", "Parser"]

_ANY = st.text(max_size=200)
_NUMBERS = st.from_regex(r"[-+ ]?[0-9]{1,30}[ ]?[kKMGTPEiB]{0,4}", fullmatch=True)


@dataclass(frozen=True)
class Parser:
    """Call *parse* with a text; with *as_file*, with the path of a file that holds it."""

    parse: Callable[[str], Any]
    texts: st.SearchStrategy[str]
    as_file: bool = False


def _mutated(text: str) -> st.SearchStrategy[str]:
    """Give *text* with a piece of it left out, doubled, or replaced by anything."""
    return st.builds(
        lambda at, length, new: text[:at] + new + text[at + length :],
        st.integers(0, len(text)),
        st.integers(0, 40),
        _ANY
        | st.sampled_from(["", "{", "]", "\n", "=", '"', "-1", "1e999", "9" * 30, "null", "\0"]),
    )


def _joined(*words: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(words) | st.text(max_size=5), max_size=12).map("".join)


_COSTS = (Path(__file__).parent.parent.parent / "kmem_harness" / "costs" / "v4.toml").read_text()
_TRACE = json.dumps(
    {
        "scenario": "fuzz",
        "kernel": "5.10",
        "description": "a trace",
        "steps": [{"op": "mkdir", "cgroup": "/a"}, {"op": "write", "file": "x", "value": "1"}],
    }
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["scenario", "kernel", "steps", "op", "cgroup", "file", "value"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
_UNIT = _joined(
    *("[Unit]\n", "[Service]\n", "ExecStart=", "/bin/true\n", "Restart=always\n", "# x\n"),
    *("\\\n", "=", "Environment=", '"', "'", "%n", "%", "Slice=a.slice\n", "[", "]\n", ";\n"),
)
_RULE = _joined(
    *(
        "fork",
        "clone",
        ":",
        "error=",
        "ENOMEM",
        ":when=",
        "1",
        "2..5",
        "+",
        "..",
        "delay_enter=",
        ",",
    ),
    *("signal=", "KILL", "retval=", "@", "%", "all", "!"),
)

PARSERS = {
    "size": Parser(parse_size, _ANY | _NUMBERS),
    "cost table": Parser(load_costs, _ANY | _mutated(_COSTS), as_file=True),
    "trace": Parser(load_trace, _ANY | _mutated(_TRACE) | _VALUES.map(json.dumps), as_file=True),
    "rule": Parser(parse_rule, _ANY | _RULE),
    "unit": Parser(lambda text: parse_unit_text(text, "fuzz.service"), _ANY | _UNIT),
    "unit name": Parser(
        parse_name, _ANY | _joined("a", "@", ".", "service", "slice", "-", "\\x2d")
    ),
    "environment file": Parser(
        lambda text: list(parse_environment_file(text)),
        _ANY | _joined("A=", '"', "'", "\\", "\n", "#"),
    ),
}
