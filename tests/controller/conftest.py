"""A harness to be talked to in ways no client of ours would; at the end it must still answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kmem_harness import Harness

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []


@pytest.fixture(scope="session")
def lasting_harness() -> Iterator[Harness]:
    """Share one controller among all tests of this room."""
    with Harness("v4") as harness:
        yield harness


@pytest.fixture
def harness(lasting_harness: Harness) -> Iterator[Harness]:
    """Give it, and see that it lives on and carries out a box."""
    yield lasting_harness
    assert lasting_harness.controller.alive
    with lasting_harness.run(["sh", "-c", "true & wait"], kmem_limit="1M") as box:
        assert box.wait(timeout=30) == 0
        assert box.report()["kinds"]["task"]["charged"] == 1
