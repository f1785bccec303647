"""A harness that all tests of this room may use; those that end one make their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kmem_harness import Harness

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []


@pytest.fixture(scope="session")
def harness() -> Iterator[Harness]:
    """Emulate kernel v4, where each task costs 8192 bytes."""
    with Harness("v4") as harness:
        yield harness


@pytest.fixture(autouse=True)
def _no_box_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "harness" in request.fixturenames:
        harness = request.getfixturevalue("harness")
        for box in harness.controller.request("boxes")["boxes"]:
            pytest.fail(f"a test left a box running: {box}")
