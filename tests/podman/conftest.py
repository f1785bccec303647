"""The matrix on podman, through its Docker-compatible API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker_matrix.fixtures import harness, images, listener, start
from tests.support.engine import podman_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

__all__ = ["engine", "harness", "images", "listener", "start"]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give podman."""
    with podman_engine() as engine:
        yield engine
