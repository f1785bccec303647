"""The quickest of the matrix on podman; the rest of it is ``test_matrix``, with ``-m slow``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kmem_harness.core.errors import ConfigurationError
from tests.docker_matrix.images import BUSYBOX
from tests.docker_matrix.test_bombs import (
    test_exec_then_counts_in_the_same_memcg,
    test_exec_when_done_behind_our_back_then_is_bound_or_reported_as_a_breach,
    test_kill_when_done_behind_our_back_then_is_noticed,
    test_restart_when_asked_for_then_is_under_the_limit_again,
    test_shell_bomb_then_its_limit_is_never_passed,
)
from tests.docker_matrix.test_clients import (
    test_patch_when_code_knows_docker_py_only_then_contains_it,
)
from tests.docker_matrix.test_shapes import test_exit_status_then_is_the_containers

if TYPE_CHECKING:
    from kmem_harness import Harness

__all__ = [
    "test_exec_then_counts_in_the_same_memcg",
    "test_exec_when_done_behind_our_back_then_is_bound_or_reported_as_a_breach",
    "test_exit_status_then_is_the_containers",
    "test_kill_when_done_behind_our_back_then_is_noticed",
    "test_patch_when_code_knows_docker_py_only_then_contains_it",
    "test_restart_when_asked_for_then_is_under_the_limit_again",
    "test_shell_bomb_then_its_limit_is_never_passed",
]


@pytest.fixture(scope="module")
def listener() -> str:
    """Have podman's runtime install the filter, and fail where it does not."""
    return "native"


def test_run_when_it_has_fault_rules_then_native_cannot_be_had(harness: Harness) -> None:
    """A rule would count what the runtime itself calls before it is the command."""
    with pytest.raises(ConfigurationError, match="together with fault rules"):
        harness.run(["true"], image=BUSYBOX, faults=["openat:error=ENOMEM:when=3"])
