"""The harness inside a container of podman's that was started without any option."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker.conftest import busybox_image
from tests.docker.test_inside import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine


@pytest.fixture(scope="module")
def image(engine: Engine) -> Iterator[str]:
    """Import an image of busybox alone."""
    name = "localhost/kmem-test-inside:latest"
    busybox_image(engine.client, name)
    yield name
    engine.client.images.remove(name, force=True)
