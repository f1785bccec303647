"""Add the options and markers to pytest, and say at the top of a run what is in force."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kmem_harness.pytest_plugin.collecting import Collector
from kmem_harness.pytest_plugin.fault_markers import FAULT_MARKERS
from kmem_harness.pytest_plugin.markers import MARKERS
from kmem_harness.pytest_plugin.records import LEFT, take_settled
from kmem_harness.pytest_plugin.settings import OPTIONS, SETTINGS, read_settings

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "pytest_addoption",
    "pytest_configure",
    "pytest_report_header",
    "pytest_runtestloop",
    "pytest_sessionfinish",
]

_ALWAYS_SHOWN = ("limit", "kernel", "runtime")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options and ini values."""
    group = parser.getgroup("kmem", "kernel-memory limits (kmem-harness)")
    for option in OPTIONS:
        if option.metavar is None:
            group.addoption(option.flag, action="store_true", default=None, help=option.text)
        else:
            action = "append" if option.name == "report" else "store"
            group.addoption(
                option.flag, action=action, default=None, metavar=option.metavar, help=option.text
            )
        text = option.text.replace("%%", "%")
        if option.name == "report":
            parser.addini(option.ini, text, "linelist")
        else:
            parser.addini(option.ini, text)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings once, register the markers, and collect what tests report.

    Raises: pytest.UsageError.
    """
    for line in (*MARKERS, *FAULT_MARKERS):
        config.addinivalue_line("markers", line)
    settings = config.stash[SETTINGS] = read_settings(config)
    if settings.fail_on_increase is not None:
        from kmem_harness.pytest_plugin.baseline import BASELINE, read_baseline

        config.stash[BASELINE] = read_baseline(settings)
    if not hasattr(config, "workerinput"):  # an xdist worker's reports are collected with the rest
        config.pluginmanager.register(Collector(config), "kmem_harness_collector")


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Keep docker-py patched for as long as tests run, if that was asked for."""
    settings = session.config.stash[SETTINGS]
    if not settings.docker_patch:
        return (yield)
    from kmem_harness.pytest_plugin.docker_patch import patched

    with patched(settings):
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand on what a worker of pytest-xdist has left: fixtures may end with no test's report."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # else the collector does it
        output[LEFT] = json.dumps(take_settled(session.config), default=str)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which settings are in force and where they come from, if any was set."""
    settings = config.stash[SETTINGS]
    if not settings.given:
        return None
    shown = []
    for option in OPTIONS:
        given = settings.given.get(option.field)
        if given is not None:
            text = given.text.replace("\n", ",")
            shown.append(f"{option.name} {text} ({given.source})")
        elif option.name in _ALWAYS_SHOWN:
            shown.append(f"{option.name} {getattr(settings, option.field) or 'none'}")
    return f"kmem: {', '.join(shown)}"
