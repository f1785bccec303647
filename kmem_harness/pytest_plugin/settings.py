"""Say what a run was asked for: options, environment and ini values, read once into one object.

Each beats the one after it. A marker beats them all; those are read in ``markers.py``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kmem_harness.pytest_plugin import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["OPTIONS", "SETTINGS", "Given", "Option", "Settings", "read_settings"]


class Option:
    """One setting: ``--kmem-NAME``, ``KMEM_HARNESS_NAME``, ini ``kmem_name``."""

    def __init__(
        self,
        name: str,
        read: Callable[[str, Path], Any],
        default: Any,
        metavar: str | None,
        text: str,
    ) -> None:
        """Have *read* make a value of what is set; it raises ValueError with the rule.

        Without a *metavar* it is a switch. *text* is its help.
        """
        self.name = name
        self.read = read
        self.default = default
        self.metavar = metavar
        self.text = text
        #: Its name in :class:`Settings`, on the command line, in the environment, in ini files.
        self.field = name.replace("-", "_")
        self.flag = f"--kmem-{name}"
        self.variable = f"KMEM_HARNESS_{self.field.upper()}"
        self.ini = f"kmem_{self.field}"


class Given(NamedTuple):
    """What somebody set: the text, where it stands, and how near that is (the lower, the nearer)."""

    text: str
    source: str
    rank: int


class Settings:
    """What the user asked for, once and for the whole run."""

    # Plain classes in here: making dataclasses takes more of a run's start than all the rest.
    limit: str | None
    kernel: str
    runtime: str
    image: str | None
    timeout: float | None
    docker_listener: str
    controller: str | None
    require: bool
    docker_patch: bool
    top: int
    report: tuple[tuple[str, str], ...]
    keep: str
    keep_dir: str
    baseline: str
    update_baseline: bool
    fail_on_increase: float | None
    #: What was set, by field.
    given: Mapping[str, Given]

    def __init__(self, values: Mapping[str, Any], given: Mapping[str, Given]) -> None:
        """Hold one of *values* for each option."""
        vars(self).update(values)
        self.given = given

    @property
    def counts_always(self) -> bool:
        """Whether containers without a limit are counted, too: somebody wants to know."""
        return self.update_baseline or self.fail_on_increase is not None


SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()

OPTIONS = (
    Option(
        "limit",
        reading.limit,
        None,
        "SIZE",
        "kernel-memory limit of each test's memcg, such as 8M (default: none)",
    ),
    Option("kernel", reading.kernel, "5.10", "PROFILE", "kernel to emulate: v4, 3.8, 3.12 or 5.10"),
    Option(
        "runtime",
        reading.runtime,
        "local",
        "NAME",
        "where containers without an image of their own run: local or docker",
    ),
    Option(
        "image",
        reading.text,
        None,
        "REF",
        "image of docker containers that name none (default: none)",
    ),
    Option(
        "timeout",
        reading.seconds,
        None,
        "TIME",
        "end containers that run longer than 30, 500ms or 2min, and fail their test; stands still in a debugger "
        "(default: none)",
    ),
    Option(
        "docker-listener",
        reading.docker_listener,
        "auto",
        "WHO",
        "who filters docker containers: shim (ours), native (the engine's runtime), or auto",
    ),
    Option(
        "controller",
        reading.text,
        None,
        "docker://NAME",
        "controller in container NAME, on the host of an engine that is elsewhere",
    ),
    Option(
        "require",
        reading.switch,
        False,
        None,
        "fail tests whose limit this host cannot enforce, instead of skipping them",
    ),
    Option(
        "docker-patch",
        reading.switch,
        False,
        None,
        "give docker-py's kernel_memory= its meaning in code that calls docker-py itself; "
        "--kmem-limit is the limit of containers that have none of their own",
    ),
    Option(
        "top", reading.count, 5, "N", "how many of the top users the summary shows (default: 5)"
    ),
    Option(
        "report",
        reading.reports,
        (),
        "KIND:PATH",
        "write what each test's containers used: json:PATH or html:PATH; may be given twice",
    ),
    Option(
        "keep",
        reading.keep,
        "never",
        "WHEN",
        "keep each container's report, refusals and log: never, failed or always (default: never)",
    ),
    Option(
        "keep-dir",
        reading.path,
        "kmem-kept",
        "DIR",
        "where to keep them (default: kmem-kept in the root directory)",
    ),
    Option(
        "baseline",
        reading.path,
        "kmem-baseline.json",
        "FILE",
        "what tests used before (default: kmem-baseline.json in the root directory)",
    ),
    Option(
        "update-baseline",
        reading.switch,
        False,
        None,
        "write what passing tests used to the baseline",
    ),
    Option(
        "fail-on-increase",
        reading.increase,
        None,
        "PERCENT",
        "fail a test that used this much more than in the baseline, such as 10%%",
    ),
)

_INI = 2


def read_settings(config: pytest.Config) -> Settings:
    """Read all settings. Raises: pytest.UsageError naming value, place and rule."""
    values: dict[str, Any] = {}
    given: dict[str, Given] = {}
    for option in OPTIONS:
        found = _find(config, option)
        if found is None:
            value = option.default
            if option.read is reading.path:
                value = reading.path(value, config.rootpath)
        else:
            given[option.field] = found
            value = _read(config, option, found)
        values[option.field] = value
    _settle_contradictions(values, given)
    return Settings(values, given)


def _settle_contradictions(values: dict[str, Any], given: dict[str, Given]) -> None:
    """Let the nearer of two settings that exclude each other hold.

    Raises: pytest.UsageError if they stand equally near.
    """
    update, compare = given.get("update_baseline"), given.get("fail_on_increase")
    if update and compare and values["update_baseline"]:
        _refuse_equal(update, compare, "either make the baseline or compare with it")
        if update.rank < compare.rank:
            values["fail_on_increase"] = None
            del given["fail_on_increase"]
        else:
            values["update_baseline"] = False
            del given["update_baseline"]
    runtime, image = given.get("runtime"), given.get("image")
    if runtime and image and values["runtime"] == "local":
        _refuse_equal(runtime, image, "local containers have no image")


def _refuse_equal(one: Given, other: Given, rule: str) -> None:
    if one.rank == other.rank:
        message = f"{one.source} {one.text!r} contradicts {other.source} {other.text!r}: {rule}"
        raise pytest.UsageError(message)


def _find(config: pytest.Config, option: Option) -> Given | None:
    """Give what was set, as text, and where; ``None`` if nothing was."""
    value = config.getoption(option.flag)
    if value is not None:
        text = "\n".join(value) if isinstance(value, list) else str(value)
        return Given(text, option.flag, 0)
    value = os.environ.get(option.variable)
    if value:
        return Given(value, option.variable, 1)
    value = config.getini(option.ini)
    if value not in (None, "", []):  # unset, by release of pytest
        text = "\n".join(value) if isinstance(value, list) else str(value)
        return Given(text, f"ini {option.ini}", _INI)
    return None


def _read(config: pytest.Config, option: Option, given: Given) -> Any:
    base = config.invocation_params.dir
    if given.rank == _INI and config.inipath is not None:
        base = config.inipath.parent
    try:
        return option.read(given.text, base)
    except ValueError as error:
        message = f"{given.source}: {error}"
        raise pytest.UsageError(message) from error
