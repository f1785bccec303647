"""Read the markers of tests, and judge every one of them before the first test runs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MARKERS", "Limit", "limit_of", "pytest_collection_modifyitems"]

#: As ``pytest --markers`` shows them.
MARKERS = (
    (
        'limit_kmem(size, kinds=None, mode="enforce"): limit the kernel memory of all containers of the '
        'test together to SIZE, such as "8M"; of some KINDS of objects alone, such as ["task"]; mode '
        '"observe" counts and refuses nothing.'
    ),
)

# What a marker may say. Its text stands in messages, so it is written as a user writes it.
_LIMIT_KMEM = inspect.signature(lambda size, kinds=None, mode="enforce": None)  # noqa: ARG005


@dataclass(frozen=True)
class Limit:
    """What one memcg is limited to."""

    size: str | int | None
    mode: str = "enforce"
    kinds: Sequence[str] | None = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Judge every marker before the first test runs."""
    for item in items:
        limit_of(item, None)


def limit_of(node: pytest.Item | pytest.Collector, default: str | None) -> Limit:
    """Read the nearest ``limit_kmem`` marker of *node*, else limit to *default*.

    Raises: pytest.UsageError naming the test.
    """
    return _read_nearest(node, "limit_kmem", _LIMIT_KMEM, _read_limit) or Limit(default)


def _read_nearest(
    node: pytest.Item | pytest.Collector,
    name: str,
    signature: inspect.Signature,
    read: Callable[..., Any],
) -> Any:
    nearest = list(node.iter_markers_with_node(name))
    if not nearest:
        return None
    where, marker = nearest[0]
    try:
        if len(nearest) > 1 and nearest[1][0] is where:
            raise ValueError("is there twice; which of the two holds?")  # noqa: TRY301
        given = signature.bind(*marker.args, **marker.kwargs)
        given.apply_defaults()
        return read(**given.arguments)
    except (TypeError, ValueError) as error:
        message = f"{node.nodeid}: marker {name}{signature}: {error}"
        raise pytest.UsageError(message) from error


def _read_limit(size: Any, kinds: Any, mode: Any) -> Limit:
    from kmem_harness.costs.kinds import check_kinds
    from kmem_harness.pytest_plugin.settings import check_size

    if mode not in ("enforce", "observe"):
        message = f"mode={mode!r} is not known; known are 'enforce' and 'observe'"
        raise ValueError(message)
    try:
        check_size(size)
    except ValueError as error:
        message = f"size: {error}"
        raise ValueError(message) from error
    check_kinds(kinds)
    return Limit(size, mode, None if kinds is None else tuple(kinds))
