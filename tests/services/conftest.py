"""A harness that all tests of this room share, and a stage for each."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmem_harness import Harness
from tests.services.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []


@pytest.fixture(scope="session")
def harness() -> Iterator[Harness]:
    """Emulate 5.10, as ``services run`` does by default."""
    with Harness("5.10") as harness:
        yield harness


@pytest.fixture
def stage(harness: Harness) -> Iterator[Stage]:
    """Give a stage in a folder of its own, and see that no box and no memcg stays."""
    folder = Path(
        tempfile.mkdtemp(prefix="kmem-stage-")
    )  # tmp_path's names are too long for sockets
    folder.chmod(0o755)
    yield Stage(harness, folder)
    shutil.rmtree(folder)
    assert harness.controller.request("boxes")["boxes"] == []
    assert harness.controller.children("/") == []
