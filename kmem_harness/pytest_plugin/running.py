"""Watch each test run, and tell in its report what its containers were refused."""

from __future__ import annotations

import shlex
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from kmem_harness.harness import Box
    from kmem_harness.pytest_plugin.containers import ContainerFactory

__all__ = ["FACTORY", "pytest_runtest_makereport"]

FACTORY: pytest.StashKey[ContainerFactory] = pytest.StashKey()
_SHOWN_CARDS = 5
_SHOWN_COMMAND = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a failing test what its containers were refused."""
    report = yield
    factory = item.stash.get(FACTORY, None)
    if report.when == "call" and report.failed and factory is not None and factory.boxes:
        from kmem_harness.core.errors import KmemHarnessError

        lines = [line for box in factory.boxes for line in _describe(box)]
        with suppress(KmemHarnessError):  # the controller may be what failed
            lines.insert(0, f"{factory.memcg.path}: {_peak(factory.memcg.counters())}")
        report.sections.append(("kmem", "\n".join(lines)))
    return report


def _peak(counters: dict[str, Any]) -> str:
    kmem = counters["kmem"]
    limit = "" if kmem["limit"] < 0 else f" of {kmem['limit']}"
    return f"at most {kmem['max_usage']}{limit} bytes"


def _describe(box: Box) -> list[str]:
    report = box.report()
    refusals = report["refusals"]
    name = report["memcg"]["path"].rpartition("/")[2]
    command = textwrap.shorten(shlex.join(report["command"]), _SHOWN_COMMAND, placeholder=" ...")
    lines = [f"{name}: {command}: {_peak(report['memcg'])}, {refusals['total']} refused"]
    lines += [
        (
            f"  {card['syscall']} by {card['comm']}[{card['pid']}]: {card['errno']}, "
            f"{card['nbytes']} bytes for a {card['kind']}; {card['counter']} of "
            f"{card['refused_by']} at {card['usage']} of {card['limit']}"
        )
        for card in refusals["cards"][:_SHOWN_CARDS]
    ]
    return lines
