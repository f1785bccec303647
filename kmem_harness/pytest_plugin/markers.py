"""Read the markers of tests, and judge all of a test's before anything of it runs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kmem_harness.pytest_plugin.fault_markers import judge_fault_markers
from kmem_harness.pytest_plugin.nearest import read_nearest
from kmem_harness.pytest_plugin.reading import check_size
from kmem_harness.pytest_plugin.settings import SETTINGS
from kmem_harness.pytest_plugin.spelling import check_spelling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmem_harness.pytest_plugin.settings import Settings

__all__ = ["MARKERS", "Limit", "leaks_allowed", "limit_of", "pytest_runtest_setup"]

#: As ``pytest --markers`` shows them.
MARKERS = (
    (
        'limit_kmem(size, kinds=None, mode="enforce"): limit the kernel memory of all containers of the '
        'test together to SIZE, such as "8M"; of some KINDS of objects alone, such as ["task"]; mode '
        '"observe" counts and refuses nothing.'
    ),
    (
        'limit_kmem_leaks(size="0"): fail the test if its containers hold more than SIZE of kernel '
        "memory at its end that they did not hold at its beginning."
    ),
)

# What a marker may say. Its text stands in messages, so it is written as a user writes it.
_LIMIT_KMEM = inspect.signature(lambda size, kinds=None, mode="enforce": None)  # noqa: ARG005
_LIMIT_KMEM_LEAKS = inspect.signature(lambda size="0": None)  # noqa: ARG005


class Limit(NamedTuple):
    """What one memcg is limited to."""

    size: str | int | None
    mode: str = "enforce"
    kinds: Sequence[str] | None = None
    #: Whether containers without a limit are to be counted all the same.
    counted: bool = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Judge a test's markers before anything of it runs. Raises: KmemFailed, for this test alone."""
    check_spelling(item)
    limit_of(item, item.config.stash[SETTINGS])
    judge_fault_markers(item)


def limit_of(node: pytest.Item | pytest.Collector, settings: Settings) -> Limit:
    """Read the nearest ``limit_kmem`` marker of *node*, else the settings.

    Raises: KmemFailed naming the test.
    """
    size, mode, kinds = read_nearest(node, "limit_kmem", _LIMIT_KMEM, _read_limit) or (
        settings.limit,
        "enforce",
        None,
    )
    counted = settings.counts_always or leaks_allowed(node) is not None
    return Limit(size, mode, kinds, counted)


def leaks_allowed(node: pytest.Item | pytest.Collector) -> int | None:
    """Give the bytes that containers may hold on to, ``None`` if nobody asked.

    Raises: KmemFailed naming the test.
    """
    nbytes: int | None = read_nearest(node, "limit_kmem_leaks", _LIMIT_KMEM_LEAKS, _read_leaks)
    return nbytes


def _read_limit(size: Any, kinds: Any, mode: Any) -> tuple[Any, str, Sequence[str] | None]:
    from kmem_harness.core.sizes import UNLIMITED, parse_size
    from kmem_harness.costs.kinds import check_kinds

    if mode not in ("enforce", "observe"):
        message = f"mode={mode!r} is not known; known are 'enforce' and 'observe'"
        raise ValueError(message)
    try:
        check_size(size)
    except ValueError as error:
        message = f"size: {error}"
        raise ValueError(message) from error
    check_kinds(kinds)
    if parse_size(str(size)) == UNLIMITED:
        size = None
    return size, mode, None if kinds is None else tuple(kinds)


def _read_leaks(size: Any) -> int:
    from kmem_harness.core.sizes import UNLIMITED, parse_size

    nbytes = parse_size(str(size))
    if nbytes == UNLIMITED:
        raise ValueError("size: no limit at all checks nothing; leave the marker out")
    return nbytes
