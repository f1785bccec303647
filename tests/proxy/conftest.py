"""A real engine, an image of busybox, and a proxy before it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker.conftest import engine, image
from tests.support.proxied import Proxied, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

__all__ = ["engine", "image"]


@pytest.fixture(scope="package")
def directory() -> Iterator[Path]:
    """Give a directory whose path is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="kmem-proxy-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="package")
def proxy(directory: Path, engine: Engine) -> Iterator[Proxied]:
    """Run one."""
    if os.geteuid() != 0:
        pytest.skip("only root may count the tasks of a root engine's containers")
    with proxied(directory, engine.host, "--api", "engine") as one:
        yield one
