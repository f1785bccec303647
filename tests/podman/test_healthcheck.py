"""A HEALTHCHECK on podman, which leaves its times to systemd: here it is asked for each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker_matrix.images import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.docker_matrix.fixtures import Started
    from tests.support.engine import Engine


def check(engine: Engine, started: Started) -> None:
    """Run the container's check once, as ``podman healthcheck run`` does."""
    path = f"/v4.0.0/libpod/containers/{started.container.id}/healthcheck"
    answer = engine.client.api.get(f"http+docker://localhost{path}")
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_healthcheck_of_the_request_then_runs_under_the_limit(
    engine: Engine, start: Callable[..., Started]
) -> None:
    # Not the image's: podman builds images of a format that has none.
    healthcheck = {"test": ["CMD", "fork_pause", "200"], "interval": 3600 * 10**9}
    started = start(BUSYBOX, ["sleep", "60"], tasks=20, healthcheck=healthcheck)
    check(engine, started)
    check(engine, started)
    started.container.reload()
    log = started.container.attrs["State"]["Health"]["Log"]
    assert [run["Output"].strip() for run in log] == ["children=20 errno=ENOMEM"] * 2
    report = started.box.report()
    assert report["refusals"]["total"] == 2
    assert report["kinds"]["task"]["live_peak"] == 20
    assert not report["breaches"]
