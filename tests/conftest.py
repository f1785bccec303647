"""What the whole suite shares: long forms are marked ``slow``, workers share no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.scheduler import Scheduling

pytest_plugins = ["pytester"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let what is slow once be slow now, and not within a test."""
    if not hasattr(session.config, "workerinput"):
        from tests.support.programs import warm_up

        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        warm_up(reporter.write_line if reporter else print)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow tests, unless -m mentions them."""
    if "slow" in (config.option.markexpr or ""):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session", autouse=True)
def reports_are_as_their_schema_has_them() -> Iterator[None]:
    """See that every report made here is as the schema says that is shipped for its readers."""
    from tests.support.schemas import checking_reports

    yield from checking_reports()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Spread the tests as ``tests.support.workers`` says, unless --dist asks for something else."""
    if config.getoption("dist") != "load":  # what -n alone means
        return None
    from tests.support.workers import ByFileOrEngine

    return ByFileOrEngine(config, log)
