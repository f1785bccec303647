"""The matrix of Docker, test by test, on podman."""

from __future__ import annotations

import pytest

from tests.docker_matrix.test_bombs import *  # noqa: F403
from tests.docker_matrix.test_clients import *  # noqa: F403
from tests.docker_matrix.test_shapes import *  # noqa: F403
from tests.docker_matrix.test_start_cost import *  # noqa: F403

pytestmark = [  # type: ignore[assignment]  # a star import's is another
    pytest.mark.slow,
    pytest.mark.usefixtures("images"),
]


@pytest.fixture(scope="module", params=["shim", "auto"])
def listener(request: pytest.FixtureRequest) -> str:
    """Run all of it twice: wrapped, and with the filter from podman's runtime."""
    return str(request.param)
