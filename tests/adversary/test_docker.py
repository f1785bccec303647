"""The adversaries again, in containers: the engine's init, its cgroup, and the mounted socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.adversary.roster import for_this_machine
from tests.docker.conftest import STACK, engine, harness, image, usable
from tests.support.engine import pids_peak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kmem_harness import Box, Harness
    from tests.adversary.roster import Adversary
    from tests.support.programs import Programs

__all__ = ["engine", "harness", "image", "usable"]

LIMIT = 20  # objects
RUNS = 20
BACKSTOP = 200
#: The first process, which the engine made.
AROUND = 1
ALL = [one for one in for_this_machine() if "container" in one.isolations]
#: Run with every test run; the others are slow tests.
QUICK = {"clone3_rewritten", "exec_in_thread", "forged_handshakes", "hidden_tasks"}


@pytest.fixture
def start(harness: Harness, image: str, programs: Programs) -> Iterator[Callable[..., Box]]:
    """Start an adversary in a container, which ends with the test."""
    boxes = []

    def start_one(adversary: Adversary, gate: Path) -> Box:
        program = programs[adversary.name]
        box = harness.run(
            [f"/siege/{program.name}", str(adversary.nr_tries), *adversary.words],
            image=image,
            kmem_limit=LIMIT * STACK,
            network_mode="none",
            pids_limit=BACKSTOP,
            environment={"SIEGE_BEGINS": "/gate/begin"},
            volumes={
                str(program.parent): {"bind": "/siege", "mode": "ro"},
                str(gate): {"bind": "/gate", "mode": "ro"},
            },
        )
        boxes.append(box)
        return box

    yield start_one
    for box in boxes:
        box.close()


def assert_held(adversary: Adversary, gate: Path, start: Callable[..., Box]) -> None:
    box = start(adversary, gate)
    peak = pids_peak(box.container, 20, gate / "begin") - AROUND
    status = box.wait(timeout=30)
    report = box.report()
    kmem = report["memcg"]["kmem"]
    assert peak <= LIMIT
    assert kmem["max_usage"] <= kmem["limit"] == LIMIT * STACK
    assert kmem["usage"] == 0
    assert all(kind["charged"] == kind["uncharged"] for kind in report["kinds"].values())
    assert status == 0 or adversary.may_die
    words = box.container.logs().decode().split()
    tally = dict(word.split("=") for word in words if "=" in word)
    # An engine's own filter may refuse a call before ours is asked.
    assert tally["first_errno"] in {*adversary.errnos, "EPERM", "ENOSYS"}
    assert adversary.prints.items() <= tally.items()


@pytest.mark.parametrize(
    "adversary", [one for one in ALL if one.name in QUICK], ids=lambda one: one.name
)
def test_adversary_when_in_a_container_then_never_has_more_than_the_limit_admits(
    adversary: Adversary, tmp_path: Path, start: Callable[..., Box]
) -> None:
    assert_held(adversary, tmp_path, start)


@pytest.mark.slow
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("adversary", ALL, ids=lambda one: one.name)
def test_adversary_when_in_a_container_again_and_again_then_never_has_more(
    adversary: Adversary, run: int, tmp_path: Path, start: Callable[..., Box]
) -> None:
    assert run < RUNS
    assert_held(adversary, tmp_path, start)
