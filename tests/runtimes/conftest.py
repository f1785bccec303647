"""A harness for each way of keeping boxes apart that this host allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kmem_harness import Harness
from kmem_harness.runtimes.local import ISOLATIONS, probe

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []


@pytest.fixture(scope="session", params=ISOLATIONS)
def isolated(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Emulate kernel v4 under each isolation in turn."""
    why_not = probe(request.param)
    if why_not is not None:
        pytest.skip(f"isolation {request.param!r} cannot be had here: {why_not}")
    with Harness("v4", isolation=request.param) as harness:
        yield harness
