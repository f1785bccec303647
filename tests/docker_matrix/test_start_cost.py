"""What the harness adds to the start of a container, beside the same without it."""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker_matrix.fixtures import BACKSTOP, STACK
from tests.docker_matrix.images import BUSYBOX

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness import Harness
    from tests.support.engine import Engine

_ROUNDS = 15
#: The aim is 30 ms; asserted is what a loaded machine passes, too.
_GENEROUS_SECONDS = 0.15
_OPTIONS: dict[str, Any] = {"network_mode": "none", "pids_limit": BACKSTOP}


@pytest.mark.slow
def test_start_then_costs_little_more_than_without_the_harness(
    harness: Harness, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    def plain() -> Callable[[], None]:
        container = engine.client.containers.run(BUSYBOX, ["sleep", "60"], detach=True, **_OPTIONS)
        return lambda: container.remove(force=True)

    def limited() -> Callable[[], None]:
        return harness.run(["sleep", "60"], image=BUSYBOX, kmem_limit=20 * STACK, **_OPTIONS).close

    def unlimited() -> Callable[[], None]:
        return harness.run(["sleep", "60"], image=BUSYBOX, **_OPTIONS).close

    starts = {"plain": plain, "limited": limited, "unlimited": unlimited}
    took: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(_ROUNDS):  # in turn, so that what else the machine does hits all alike
        for name, start in starts.items():
            began = time.perf_counter()
            end = start()
            took[name].append(time.perf_counter() - began)
            end()
    median = {name: statistics.median(seconds) for name, seconds in took.items()}
    figures = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in median.items())
    with capsys.disabled():
        sys.stdout.write(f"\nstart of a container, median of {_ROUNDS}: {figures}\n")
    # Where a plain start takes a second, the machine is so busy that ours takes longer, too.
    generous = max(_GENEROUS_SECONDS, median["plain"] / 4)
    assert median["limited"] - median["plain"] < generous
    assert median["unlimited"] - median["plain"] < generous
