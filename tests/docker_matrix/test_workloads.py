"""The images of ``containers/`` under a limit: the bombs meet it, the neighbour does not."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containers.build import build
from tests.docker_matrix.fixtures import STACK
from tests.support.engine import pids_peak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.docker_matrix.fixtures import Started
    from tests.support.engine import Engine

_PREFIX = "kmem-limited-"
_AROUND = 1


@pytest.fixture(scope="module", autouse=True)
def workloads(engine: Engine, images: None) -> Iterator[None]:
    tags = build(engine.client, ["fork-bomb", "thread-bomb", "neighbour"], prefix=_PREFIX)
    yield
    for tag in tags:
        engine.client.images.remove(tag, force=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fork-bomb", "Cannot allocate memory"),
        # What a C library makes of it, as POSIX wants.
        ("thread-bomb", "Resource temporarily unavailable"),
    ],
)
def test_bomb_of_the_demo_then_its_limit_is_never_passed(
    name: str, reason: str, start: Callable[..., Started]
) -> None:
    bomb = start(_PREFIX + name, ["1", "250"], tasks=40)
    peak = pids_peak(bomb.container, 10) - _AROUND
    assert bomb.box.wait(timeout=30) == 0
    assert 36 <= peak <= 40
    outcome = json.loads(bomb.lines()[-1])
    assert outcome["failed"] > 0
    assert outcome["first_error"] == reason
    assert bomb.box.memcg.kmem.max_usage <= 40 * STACK


def test_neighbour_of_a_bomb_then_is_refused_nothing(start: Callable[..., Started]) -> None:
    with tempfile.TemporaryDirectory(prefix="kmem-nb-") as directory:
        Path(directory).chmod(0o755)
        neighbour = start(
            f"{_PREFIX}neighbour",
            ["20", "5000", "both", "0", "/run/neighbour/latency"],
            tasks=5,
            volumes={directory: {"bind": "/run/neighbour", "mode": "rw"}},
        )
        bomb = start(f"{_PREFIX}fork-bomb", ["1", "250"], tasks=40)
        assert bomb.box.wait(timeout=30) == 0
        status, line = neighbour.box.exec(["/neighbour", "ask", "/run/neighbour/latency"])
        assert status == 0
        assert neighbour.box.stop() == 0
    during = json.loads(line)
    assert during["samples"] > 20
    assert during["failures"] == 0
    assert neighbour.box.report()["refusals"]["total"] == 0
    assert bomb.box.report()["refusals"]["total"] > 0
