"""Turn the texts of settings into values. Each reader raises ValueError with the rule.

A reader is given the text and the folder that relative paths in it are meant from.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "KEEP",
    "REPORTS",
    "check_size",
    "count",
    "docker_listener",
    "increase",
    "keep",
    "kernel",
    "limit",
    "parse_seconds",
    "path",
    "reports",
    "runtime",
    "seconds",
    "switch",
    "text",
]

KEEP = ("never", "failed", "always")
REPORTS = ("html", "json")
_YES_AND_NO = {"1": True, "true": True, "yes": True, "on": True} | dict.fromkeys(
    ("0", "false", "no", "off"), False
)
_UNITS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_RUNTIMES = ("local", "docker")


def check_size(size: Any) -> Any:
    """Give *size* back. Raises: ValueError if no limit can be made of it."""
    from kmem_harness.handles import limit_text

    limit_text(str(size))
    return size


def limit(given: str, _base: Path) -> str | None:
    """Read a limit; none, however it is written, is ``None``."""
    from kmem_harness.core.sizes import UNLIMITED, parse_size

    check_size(given)
    return None if parse_size(given) == UNLIMITED else given


def docker_listener(given: str, _base: Path) -> str:
    """Read who filters Docker containers."""
    from kmem_harness.runtimes.native import check_listener

    return check_listener(given)


def kernel(given: str, _base: Path) -> str:
    """Read the name of a kernel profile."""
    from kmem_harness.core.releases import check_profile_name

    return check_profile_name(given)


def runtime(given: str, _base: Path) -> str:
    """Read the name of a runtime."""
    return _one_of(_RUNTIMES, given)


def text(given: str, _base: Path) -> str:
    """Take anything."""
    return given


def path(given: str, base: Path) -> str:
    """Read a path."""
    return os.path.join(base, given)  # noqa: PTH118 - pathlib is not needed for a string


def keep(given: str, _base: Path) -> str:
    """Read when to keep what a test's containers left."""
    return _one_of(KEEP, given)


def switch(given: str, _base: Path) -> bool:
    """Read yes or no."""
    try:
        return _YES_AND_NO[given.lower()]
    except KeyError:
        message = f"{given!r} is neither yes nor no; give 1 or 0"
        raise ValueError(message) from None


def count(given: str, _base: Path) -> int:
    """Read a whole number from 0 on."""
    if not re.fullmatch(r"[0-9]{1,9}", given):
        message = f"{given!r} is not a whole number from 0 on"
        raise ValueError(message)
    return int(given)


def seconds(given: str, _base: Path) -> float | None:
    """Read a time, in seconds or with its unit; 0 is none."""
    return parse_seconds(given)


def parse_seconds(given: str) -> float | None:
    """Do the same for whoever has no folder."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([a-z]*)", given)
    if match is None or match[2] not in _UNITS:
        known = ", ".join(unit for unit in _UNITS if unit)
        message = (
            f"{given!r} is not a time, such as 30, 0.5 or 500ms: seconds, or a number with one of "
            f"{known} (0 for none)"
        )
        raise ValueError(message)
    return float(match[1]) * _UNITS[match[2]] or None


def increase(given: str, _base: Path) -> float:
    """Read by how much usage may grow, such as ``"10%"``; give the factor on top of 1."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?%", given):
        message = f"{given!r} is not a percentage, such as 10%"
        raise ValueError(message)
    return float(given[:-1]) / 100


def reports(given: str, base: Path) -> tuple[tuple[str, str], ...]:
    """Read ``KIND:PATH``, one or several with commas or new lines between them."""
    found: dict[str, str] = {}  # by path: two reports in one file leave one
    for one in re.split(r"[,\n]\s*(?=[a-z]+:)", given.strip()):
        kind, colon, name = one.strip().partition(":")
        if kind not in REPORTS or not colon or not name:
            message = f"{one!r} is not html:PATH or json:PATH"
            raise ValueError(message)
        file = os.path.join(base, name)  # noqa: PTH118 - as above
        if file in found:
            message = f"{one!r}: {found[file]}:{name} is to be written there already"
            raise ValueError(message)
        found[file] = kind
        _check_writable(one, kind, file)
    return tuple((kind, file) for file, kind in found.items())


def _check_writable(one: str, kind: str, file: str) -> None:
    folder = os.path.dirname(file)  # noqa: PTH120 - as above
    if not os.access(folder, os.W_OK | os.X_OK):
        message = f"{one!r}: cannot write in {folder!r}; make the folder first"
        raise ValueError(message)
    if os.path.isdir(file):  # noqa: PTH112 - as above
        message = f"{one!r}: is a folder; name a file in it"
        raise ValueError(message)
    if kind == "html":
        from importlib.util import find_spec

        for library in ("jinja2", "plotly"):
            if find_spec(library) is None:
                message = f"{one!r} needs {library}: pip install 'kmem-harness[report]'"
                raise ValueError(message)


def _one_of(known: tuple[str, ...], given: str) -> str:
    if given not in known:
        *most, last = (repr(one) for one in known)
        message = f"{given!r} is not known; known are {', '.join(most)} and {last}"
        raise ValueError(message)
    return given
