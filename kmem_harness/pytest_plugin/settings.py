"""Say what a run was asked for: options, environment and ini values, read once into one object.

Each beats the one after it. A marker beats them all; those are read in ``markers.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.pytest_plugin.markers import MARKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "SETTINGS",
    "Option",
    "Settings",
    "check_size",
    "pytest_addoption",
    "pytest_configure",
    "pytest_report_header",
]

_DEFAULT_KERNEL = "5.10"
_YES_AND_NO = {"1": True, "true": True, "yes": True, "on": True} | dict.fromkeys(
    ("0", "false", "no", "off"), False
)


@dataclass(frozen=True)
class Option:
    """One setting: ``--kmem-NAME``, ``KMEM_HARNESS_NAME``, ini ``kmem_name``.

    ``read`` makes a value of what stands there, and raises ValueError with the rule.
    """

    name: str
    read: Callable[[str], Any]
    default: Any
    metavar: str | None  # None: a switch
    help: str

    @property
    def field(self) -> str:
        """Its name in :class:`Settings`."""
        return self.name.replace("-", "_")

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--kmem-{self.name}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"KMEM_HARNESS_{self.field.upper()}"

    @property
    def ini(self) -> str:
        """Its name in ini files."""
        return f"kmem_{self.field}"


@dataclass(frozen=True)
class Settings:
    """What the user asked for, once and for the whole run. ``sources`` says what was set, and where."""

    limit: str | None
    kernel: str
    runtime: str
    image: str | None
    require: bool
    docker_patch: bool
    sources: Mapping[str, str]


SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()


def check_size(size: Any) -> Any:
    """Give *size* back. Raises: ValueError if no limit can be made of it."""
    from kmem_harness.handles import limit_text

    limit_text(str(size))
    return size


def _kernel(text: str) -> str:
    from kmem_harness.core.profiles import profile_named

    return profile_named(text).name


def _runtime(text: str) -> str:
    if text not in ("local", "docker"):
        message = f"{text!r} is not known; known are 'local' and 'docker'"
        raise ValueError(message)
    return text


def _switch(text: str) -> bool:
    try:
        return _YES_AND_NO[text.lower()]
    except KeyError:
        message = f"{text!r} is neither yes nor no; give 1 or 0"
        raise ValueError(message) from None


OPTIONS = (
    Option(
        "limit",
        check_size,
        None,
        "SIZE",
        "kernel-memory limit of each test's memcg, such as 8M (default: none)",
    ),
    Option(
        "kernel", _kernel, _DEFAULT_KERNEL, "PROFILE", "kernel to emulate: v4, 3.8, 3.12 or 5.10"
    ),
    Option(
        "runtime",
        _runtime,
        "local",
        "NAME",
        "where containers without an image of their own run: local or docker",
    ),
    Option("image", str, None, "REF", "image of docker containers that name none (default: none)"),
    Option(
        "require",
        _switch,
        False,
        None,
        "fail tests whose limit this host cannot enforce, instead of skipping them",
    ),
    Option(
        "docker-patch",
        _switch,
        False,
        None,
        "give docker-py's kernel_memory= its meaning in code that calls docker-py itself; "
        "--kmem-limit is the limit of containers that have none of their own",
    ),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options and ini values."""
    group = parser.getgroup("kmem", "kernel-memory limits (kmem-harness)")
    for option in OPTIONS:
        if option.metavar is None:
            group.addoption(option.flag, action="store_true", default=None, help=option.help)
        else:
            group.addoption(option.flag, default=None, metavar=option.metavar, help=option.help)
        parser.addini(option.ini, option.help, default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings once; register the markers."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        found = _find(config, option)
        values[option.field] = option.default
        if found is not None:
            text, sources[option.field] = found
            values[option.field] = _read(option, text, sources[option.field])
    config.stash[SETTINGS] = Settings(**values, sources=sources)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which settings are in force and where they come from, if any was set."""
    settings = config.stash[SETTINGS]
    if not settings.sources:
        return None
    shown = []
    for option in OPTIONS:
        value = getattr(settings, option.field)
        source = settings.sources.get(option.field)
        if source or option.field in ("limit", "kernel", "runtime"):
            text = {None: "none", True: "yes", False: "no"}.get(value, value)
            shown.append(f"{option.name} {text}" + (f" ({source})" if source else ""))
    return f"kmem: {', '.join(shown)}"


def _find(config: pytest.Config, option: Option) -> tuple[str, str] | None:
    """Give what was set, as text, and where; ``None`` if nothing was."""
    given = config.getoption(option.flag)
    if given is not None:
        return str(given), "command line"
    given = os.environ.get(option.variable)
    if given:
        return given, option.variable
    given = config.getini(option.ini)
    if given not in (None, "", []):  # unset, by release of pytest
        return str(given), f"ini {option.ini}"
    return None


def _read(option: Option, text: str, source: str) -> Any:
    try:
        return option.read(text)
    except ValueError as error:
        where = option.flag if source == "command line" else source
        message = f"{where}: {error}"
        raise pytest.UsageError(message) from error
