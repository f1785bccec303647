"""Containers of podman under our own shim, which it needs where its runtime cannot listen."""

from __future__ import annotations

import pytest

from tests.docker_matrix.test_bombs import (
    test_exec_then_counts_in_the_same_memcg,
    test_exec_when_done_behind_our_back_then_is_bound_or_reported_as_a_breach,
)

__all__ = [
    "test_exec_then_counts_in_the_same_memcg",
    "test_exec_when_done_behind_our_back_then_is_bound_or_reported_as_a_breach",
]


@pytest.fixture(scope="module")
def listener() -> str:
    """Wrap the command."""
    return "shim"
