"""What the adversaries need: their programs, and a way to count what they make."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import around, command_line
from tests.support.programs import Programs, find_compiler, why_no_compiler

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["around", "command_line", "programs"]

SOURCES = Path(__file__).parent / "programs"


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """Compile the adversaries at first use, where any user may run them."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip(why_no_compiler())
    directory = Path(tempfile.mkdtemp(prefix="kmem-adversaries-"))
    directory.chmod(0o755)
    yield Programs(directory, compiler, SOURCES)
    shutil.rmtree(directory)
