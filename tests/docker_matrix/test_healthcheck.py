"""A HEALTHCHECK counts in its container's memcg like everything else in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.docker_matrix.fixtures import STACK
from tests.docker_matrix.images import BUSYBOX, HEALTH
from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.docker_matrix.fixtures import Started

_SECOND_NS = 1_000_000_000
_BOUND = "children=20 errno=ENOMEM\n"
#: Under a shell that stays: it is the check's first process, and its child is charged.
_BOUND_BELOW_A_SHELL = "children=19 errno=ENOMEM\n"


def outputs(started: Started) -> list[str]:
    started.container.reload()
    checks: list[dict[str, Any]] = started.container.attrs["State"]["Health"]["Log"] or []
    return [check["Output"] for check in checks]


def test_healthcheck_of_the_image_then_runs_under_the_limit(start: Callable[..., Started]) -> None:
    started = start(HEALTH, tasks=20)
    until(lambda: len(outputs(started)) >= 2, 15, "there was no health check")
    assert set(outputs(started)) <= {_BOUND, _BOUND_BELOW_A_SHELL}
    started.container.reload()
    assert started.container.attrs["State"]["Health"]["Status"] == "healthy"
    assert started.box.report()["refusals"]["total"] >= 2
    assert started.box.memcg.kmem.max_usage <= 20 * STACK


def test_healthcheck_of_the_request_then_runs_under_the_limit(
    start: Callable[..., Started],
) -> None:
    check = {"test": ["CMD", "fork_pause", "200"], "interval": _SECOND_NS, "timeout": 10**10}
    started = start(BUSYBOX, ["sleep", "60"], tasks=20, healthcheck=check)
    until(lambda: len(outputs(started)) >= 1, 15, "there was no health check")
    assert outputs(started)[0] == _BOUND
