"""Read an experiment from a TOML file; every error names the file, the key and what would do."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import DEFAULT_PROFILE
from kmem_harness.experiments.checks import NAME, check
from kmem_harness.experiments.fields import Fields
from kmem_harness.experiments.model import (
    BoxPlan,
    Experiment,
    Isolation,
    Matrix,
    Oracle,
    Request,
)
from kmem_harness.experiments.parameters import read_vary
from kmem_harness.services.unitfile.names import completed

if TYPE_CHECKING:
    from collections.abc import Mapping

# The standard library has had it since 3.11; tomli is the same parser for 3.10.
_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

__all__ = ["factor_of", "load", "parse"]


def load(path: str) -> Experiment:
    """Read an experiment from a TOML file. Raises: ConfigurationError, which names the place."""
    try:
        with open(path, "rb") as file:
            table = _toml.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    try:
        return parse(table, os.path.dirname(os.path.abspath(path)))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def parse(table: Mapping[str, Any], folder: str = ".") -> Experiment:
    """Make an experiment of the TOML file's *table*, with unit files looked for in *folder*, too.

    Raises: ConfigurationError.
    """
    top = Fields("", dict(table))
    name = top.text("name")
    if not name or not NAME.fullmatch(name):
        raise top.fail("name", "a name of letters, digits, '.', '_' and '-' is needed")
    experiment = Experiment(
        name=name,
        kernel=top.text("kernel", DEFAULT_PROFILE) or "",
        repeats=top.whole("repeats", 1, least=1),
        seed=top.whole("seed", 0, least=0),
        timeout=top.number("timeout", 30, least=0.1, most=86_400),
        pass_rate=top.number("pass_rate", 1, least=0, most=1),
        memcgs={path: _limits(row) for path, row in top.named_tables("memcg").items()},
        boxes=tuple(_box(name, row, folder) for name, row in top.named_tables("box").items()),
        vary=read_vary(top.table("vary")),
        oracle=_oracle(top.table("oracle")),
        matrix=_matrix(top.table("matrix")) if "matrix" in top else None,
    )
    top.done()
    check(experiment)
    return experiment


def factor_of(text: Any) -> float:
    """Read ``"2x"`` or a number from 1 on. Raises: ConfigurationError."""
    try:
        factor = float(text.removesuffix("x") if isinstance(text, str) else text)
    except (TypeError, ValueError):
        factor = 0.0
    if not 1 <= factor < 1e6:  # noqa: PLR2004 - more is no bound
        raise ConfigurationError(f'{text!r} is no factor from 1 on; write "2x"')
    return factor


def _limits(row: Fields) -> dict[str, str]:
    found = {name: row.size(name) for name in ("kmem_limit", "memory_limit")}
    row.done()
    return {name: limit for name, limit in found.items() if limit is not None}


def _box(name: str, row: Fields, folder: str) -> BoxPlan:
    box = BoxPlan(
        name=name,
        command=row.words("command") or (),
        image=row.text("image"),
        unit=tuple(_found(source, folder) for source in row.words("unit") or ()),
        properties=_properties(row),
        runtime=row.text("runtime"),
        kmem_limit=row.size("kmem_limit"),
        memory_limit=row.size("memory_limit"),
        memcg=row.text("memcg"),
        env=row.texts("env"),
        cwd=row.text("cwd"),
        pids_max=row.whole("pids_max", 3, least=3) if "pids_max" in row else None,
        inject=row.words("inject") or (),
        background=row.flag("background"),
        ready=_request(row, "ready"),
        health=_request(row, "health"),
        probe=_request(row, "probe"),
        aggressor=row.words("aggressor") or (),
    )
    row.done()
    return box


def _found(source: str, folder: str) -> str:
    """Look for a unit file or a folder beside the experiment's file."""
    path = os.path.join(folder, source)
    return os.path.abspath(path) if os.path.exists(path) else source


def _properties(row: Fields) -> dict[str, dict[str, str]]:
    """Read what is set on top of unit files: a table by unit, or a list as ``-p`` takes it."""
    given = row.raw("properties", {})
    if isinstance(given, dict):
        return {
            completed(unit): _texts(table) for unit, table in row.named_tables("properties").items()
        }
    found: dict[str, dict[str, str]] = {}
    for text in row.words("properties") or ():
        unit, colon, assignment = text.partition(":")
        key, equals, value = assignment.partition("=")
        if not (colon and equals and unit and key):
            raise row.fail(
                "properties",
                'UNIT:KEY=VALUE is needed, such as ["web.service:X-KmemMax={limit}"], or a table '
                'such as {"web.service" = {X-KmemMax = "8M"}}',
            )
        found.setdefault(completed(unit), {})[key] = value
    return found


def _texts(table: Fields) -> dict[str, str]:
    found = {key: table.size(key) or "" for key in table.items()}
    table.done()
    return found


def _request(row: Fields, key: str) -> Request | None:
    if key not in row:
        return None
    table = row.table(key)
    request = Request(
        command=table.words("command") or (),
        tcp=table.text("tcp") or "",
        send=table.text("send") or "",
        expect=table.text("expect") or "",
        within=table.number("within", 5, least=0.01, most=3600),
        period=table.number("period_ms", 5, least=0.1, most=60_000) / 1000,
        seconds=table.number("seconds", 2, least=0.05, most=3600),
    )
    table.done()
    if bool(request.command) == bool(request.tcp):
        raise ConfigurationError(f'{table.where}: give either command = [...] or tcp = "HOST:PORT"')
    if request.tcp and not re.fullmatch(r".+:(\d+|\{.+\})", request.tcp):
        raise table.fail("tcp", 'HOST:PORT is needed, such as "127.0.0.1:{port}"')
    return request


def _oracle(table: Fields) -> Oracle:
    exits: dict[str, tuple[int, ...]] = {}
    allowed = table.table("exit")
    for name, given in allowed.items().items():
        codes = given if isinstance(given, list) else [given]
        if not codes or not all(type(code) is int and 0 <= code <= 255 for code in codes):  # noqa: PLR2004
            raise allowed.fail(name, "no run can pass: exit codes from 0 to 255 are needed")
        exits[name] = tuple(codes)
    refused = table.table("refused")
    p99_ms = table.table("p99_ms")
    oracle = Oracle(
        exit=exits,
        refused={name: refused.whole(name, 0, least=0) for name in refused.items()},
        p99={name: p99_ms.number(name, 1, least=0.001) / 1000 for name in p99_ms.items()},
        isolated=tuple(_isolation(row) for row in table.tables("isolated")),
    )
    table.done()
    return oracle


def _isolation(row: Fields) -> Isolation:
    names = {key: row.text(key) or "" for key in ("victim", "aggressor")}
    isolation = Isolation(**names, p99=_factor(row), slack=_slack(row))
    row.done()
    return isolation


def _matrix(table: Fields) -> Matrix:
    matrix = Matrix(table.words("boxes") or (), _factor(table), _slack(table))
    table.done()
    return matrix


def _factor(row: Fields) -> float:
    try:
        return factor_of(row.raw("p99", "2x"))
    except ConfigurationError as error:
        raise ConfigurationError(f"{row.where}.p99: {error}") from None


def _slack(row: Fields) -> float:
    return row.number("slack_ms", 1, least=0) / 1000
