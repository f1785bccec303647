"""The matrix on a Docker engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker_matrix.fixtures import harness, images, listener, start
from tests.support.engine import docker_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

__all__ = ["engine", "harness", "images", "listener", "start"]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give the engine of $DOCKER_HOST."""
    with docker_engine() as engine:
        yield engine
