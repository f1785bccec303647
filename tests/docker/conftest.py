"""A real engine, an image of busybox alone, and a harness on it."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness import Harness
from kmem_harness.core.errors import UnsupportedHostError
from tests.support.engine import cannot_run, docker_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine

#: Bytes of a task in the profile v4.
STACK = 8192
OPTIONS: dict[str, Any] = {"network_mode": "none", "pids_limit": 200}


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give the engine of $DOCKER_HOST."""
    with docker_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def image(engine: Engine) -> Iterator[str]:
    """Import an image of busybox alone."""
    # Its own each time: who imports this fixture has another one of the same session.
    name = f"kmem-test-busybox:{os.getpid()}-{os.urandom(2).hex()}"
    busybox_image(engine.client, name)
    yield name
    engine.client.images.remove(name, force=True)


def busybox_image(client: Any, name: str) -> None:
    """Give an engine an image with a static busybox and nothing else."""
    busybox = shutil.which("busybox")
    if busybox is None:
        cannot_run("no busybox: install busybox-static")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(os.path.realpath(busybox), "bin/busybox")
        for applet in ("sh", "sleep", "echo", "cat", "true", "grep", "id"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    client.api.import_image_from_data(
        packed.getvalue(), repository=name, changes=['CMD ["sh", "-c", "echo own command"]']
    )


@pytest.fixture(scope="session")
def usable(engine: Engine, image: str) -> None:
    """See that containers can be held here: an ordinary user cannot look into root's."""
    try:
        with Harness("v4") as harness:
            harness.run(["true"], image=image, kmem_limit="1M", network_mode="none").close()
    except UnsupportedHostError as error:
        if os.geteuid() != 0 and "/proc/PID/root" in error.missing:
            pytest.skip(f"{error}; {error.remedy}")
        cannot_run(f"{error}; {error.remedy}")


@pytest.fixture(scope="module")
def harness(engine: Engine, usable: None) -> Iterator[Harness]:
    """Give a harness of the profile v4, and see that no container is left behind it."""
    before = containers(engine)
    with Harness("v4") as harness:
        yield harness
    assert containers(engine) == before


@pytest.fixture
def start(harness: Harness, image: str) -> Iterator[Callable[..., Any]]:
    """Start a shell script in a container that is removed with the test."""
    boxes = []

    def start_one(script: str, tasks: int = 20, **options: Any) -> Any:
        options = {"kmem_limit": tasks * STACK, **OPTIONS, **options}
        box = harness.run(["sh", "-c", script], image=image, **options)
        boxes.append(box)
        return box

    yield start_one
    for box in boxes:
        box.close()


def containers(engine: Engine) -> set[str]:
    """Name every container the engine has."""
    # Not containers.list: that inspects each, and others come and go meanwhile.
    return {row["Names"][0].lstrip("/") for row in engine.client.api.containers(all=True)}
