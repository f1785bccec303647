"""What the matrix shares, for whichever ``engine`` a conftest gives it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness import Harness
from kmem_harness.core.errors import UnsupportedHostError
from tests.docker_matrix.images import matrix_images
from tests.support.engine import PATIENCE_SECONDS, cannot_run, cgroup_of
from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmem_harness import Box
    from tests.support.engine import Engine

__all__ = ["BACKSTOP", "STACK", "Start", "Started", "harness", "images", "listener", "start"]

#: Bytes of a task in the profile v4, which the matrix emulates: its arithmetic is the simplest.
STACK = 8192
#: Tasks, by the engine's own pids limit: more than any limit here admits, less than hurts.
BACKSTOP = 300


class Started:
    """A box that was started, as the engine and the kernel see it."""

    def __init__(self, box: Box, container: Any) -> None:
        """Look at *box* through *container*, got from the engine by a client of our own."""
        self.box = box
        self.container = container
        self.container.reload()
        self.pid = int(container.attrs["State"]["Pid"])
        #: ``None`` where the container was over before we looked.
        self.cgroup: Path | None = None
        with suppress(OSError):
            self.cgroup = cgroup_of(self.pid) if self.pid else None

    def lines(self) -> list[str]:
        """Read its output; a terminal's line ends are as good as any."""
        return str(self.container.logs().decode()).replace("\r\n", "\n").splitlines()

    def until_lines(self, nr_lines: int) -> list[str]:
        """Wait for so many lines of output."""
        until(
            lambda: len(self.lines()) >= nr_lines,
            PATIENCE_SECONDS,
            f"{self.container.name} did not print {nr_lines} lines",
        )
        return self.lines()

    def read(self, file: str) -> int:
        """Read a file of its pids cgroup. Raises: OSError once it is gone."""
        assert self.cgroup is not None
        return int((self.cgroup / file).read_text())

    def is_gone(self) -> bool:
        """Whether the kernel has nothing of it any more."""
        return not (Path(f"/proc/{self.pid}").exists() or (self.cgroup and self.cgroup.exists()))


Start = "Callable[..., Started]"


@pytest.fixture(scope="session")
def images(engine: Engine) -> Iterator[None]:
    """Build the images of the matrix."""
    if os.geteuid() != 0:  # a skip everywhere: there is nothing that could be installed
        pytest.skip("only root may count the tasks of a root engine's containers")
    with matrix_images(engine):
        yield


@pytest.fixture(scope="module")
def listener() -> str:
    """Say who filters the containers; a room, or a module, may say otherwise."""
    return "auto"


@pytest.fixture(scope="module")
def harness(engine: Engine, images: None, listener: str) -> Iterator[Harness]:
    """Give a harness of the profile v4 that uses *engine*; nothing is left behind it."""
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = engine.host
    there = {one.id for one in engine.client.containers.list(all=True)}
    try:
        try:
            harness = Harness("v4", docker_listener=listener)
        except UnsupportedHostError as error:
            cannot_run(f"{error}; {error.remedy}")
        directory = Path(harness.controller.directory)
        with harness:
            yield harness
        assert not directory.exists()
        assert {one.id for one in engine.client.containers.list(all=True)} == there
    finally:
        if before is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = before


@pytest.fixture
def start(harness: Harness, engine: Engine) -> Iterator[Callable[..., Started]]:
    """Start a container under a limit, *tasks* times the price of one; it ends with the test."""
    boxes: list[Box] = []

    def start_one(
        image: str, command: list[str] | None = None, *, tasks: int = 20, **options: Any
    ) -> Started:
        if "memcg" not in options:
            options["kmem_limit"] = tasks * STACK
        options.setdefault("network_mode", "none")
        options.setdefault("pids_limit", BACKSTOP)
        box = harness.run(command, image=image, **options)
        boxes.append(box)
        return Started(box, engine.client.containers.get(box.container.id))

    yield start_one
    for box in boxes:
        box.close()
