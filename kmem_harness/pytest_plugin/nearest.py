"""Find the marker that holds for a test, and bind what it was given; errors name the test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.pytest_plugin.verdicts import KmemFailed

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable

    import pytest

__all__ = ["bad_marker", "bind", "read_nearest"]


def read_nearest(
    node: pytest.Item | pytest.Collector,
    name: str,
    signature: inspect.Signature,
    read: Callable[..., Any],
) -> Any:
    """Give what *read* makes of the nearest marker *name* of *node*, ``None`` if there is none.

    Raises: KmemFailed naming the test.
    """
    nearest = list(node.iter_markers_with_node(name))
    if not nearest:
        return None
    where, marker = nearest[0]

    def once(**given: Any) -> Any:
        if len(nearest) > 1 and nearest[1][0] is where:
            raise ValueError("is there twice; which of the two holds?")
        return read(**given)

    return bind(node, marker, signature, once)


def bind(
    node: pytest.Item | pytest.Collector,
    marker: pytest.Mark,
    signature: inspect.Signature,
    read: Callable[..., Any],
) -> Any:
    """Give what *read* makes of the arguments of *marker*. Raises: KmemFailed naming the test."""
    try:
        given = signature.bind(*marker.args, **marker.kwargs)
        given.apply_defaults()
        return read(**given.arguments)
    except (TypeError, ValueError) as error:
        raise bad_marker(node, f"{marker.name}{signature}: {error}") from None


def bad_marker(node: pytest.Item | pytest.Collector, text: str) -> KmemFailed:
    """Give the failure of a test whose marker cannot be used as it stands."""
    path, line, _ = getattr(node, "location", (node.nodeid, None, ""))
    place = node.nodeid if line is None else f"{path}:{line + 1}"
    return KmemFailed("marker", f"{place}: marker {text}")
