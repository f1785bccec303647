"""What the end-to-end tests share."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.box_peak import tasks_around_box
from tests.support.command_line import CommandLine
from tests.support.peak import PidsCgroup, why_no_pids_cgroup
from tests.support.programs import Programs, find_compiler, why_no_compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__: list[str] = []


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """Compile the programs of ``tests/programs`` at first use, where any user may run them."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip(why_no_compiler())
    directory = Path(tempfile.mkdtemp(prefix="kmem-programs-"))
    directory.chmod(0o755)
    yield Programs(directory, compiler)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def pids_cgroup() -> Callable[[int], PidsCgroup]:
    """Give the class to measure with, if this host lets it."""
    reason = why_no_pids_cgroup()
    if reason:
        pytest.skip(reason)
    return PidsCgroup


@pytest.fixture(scope="session")
def around() -> int | None:
    """Count the tasks of a run that its target did not make; ``None`` if this user cannot."""
    if why_no_pids_cgroup():
        return None
    directory = Path(tempfile.mkdtemp(prefix="kmem-around-"))
    try:
        return tasks_around_box(CommandLine(directory))
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def command_line() -> Iterator[CommandLine]:
    """Run the command line with a directory of its own, in which nothing may be left behind."""
    # Not tmp_path: the address of a socket in it would be too long.
    directory = Path(tempfile.mkdtemp(prefix="kmem-e2e-"))
    command_line = CommandLine(directory)
    yield command_line
    left = command_line.leftovers()
    shutil.rmtree(directory)
    assert not left
