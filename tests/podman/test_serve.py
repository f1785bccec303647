"""A standing controller, and podman containers under a static profile."""

from __future__ import annotations

from tests.docker_matrix.test_serve import *  # noqa: F403
