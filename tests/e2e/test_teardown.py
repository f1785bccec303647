"""Kill any part of a run in the middle of a bomb, and within two seconds nothing of it is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.bombs import bomb_command
from tests.support.command_line import find_parts
from tests.support.leftovers import PidNamespace, cgroups_of, lives, procfs_mounts
from tests.support.peak import descendants, until

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine
    from tests.support.programs import Programs

STACK = 8192
LIMIT = 60  # tasks
PARTS = ["cli", "controller", "guard", "init"]
GONE_SECONDS = 2.0
RUNS = 10
OWN_FAILURE = 125


def assert_nothing_left(part: str, command_line: CommandLine, programs: Programs) -> None:
    mounts = procfs_mounts()
    command = bomb_command("tree", programs, 30)
    options = ["--kernel", "v4", "--kmem-limit", str(LIMIT * STACK), "--pids-max", "200"]
    process = command_line.start(command, *options)
    try:
        parts = find_parts(process)
        until(lambda: len(descendants(parts.init)) > LIMIT / 2, 10, "the bomb did not multiply")
        family = [process.pid, *descendants(process.pid)]
        cgroups = cgroups_of(process.pid)
        assert cgroups or os.geteuid()
        namespace = PidNamespace(parts.init) if parts.has_namespace else None
        os.kill(getattr(parts, part), signal.SIGKILL)
        until(lambda: not any(map(lives, family)), GONE_SECONDS, "processes are left")
        # The bomb has made more since we listed the family.
        if namespace:
            until(namespace.is_empty, GONE_SECONDS, "tasks of the box are left")
            namespace.close()
        until(lambda: not command_line.leftovers(), GONE_SECONDS, "sockets or files are left")
        until(lambda: not any(map(Path.exists, cgroups)), GONE_SECONDS, "a cgroup is left")
    finally:
        process.kill()
        outcome = command_line.finish(process)
    assert procfs_mounts() <= mounts
    if part == "controller":
        assert outcome.status == OWN_FAILURE
        assert "controller" in outcome.stderr
    elif part != "cli":
        assert outcome.status in (OWN_FAILURE, 128 + signal.SIGKILL)


@pytest.mark.parametrize("part", PARTS)
def test_run_when_a_part_is_killed_in_a_bomb_then_nothing_is_left(
    part: str, command_line: CommandLine, programs: Programs
) -> None:
    assert_nothing_left(part, command_line, programs)


@pytest.mark.slow
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("part", PARTS)
def test_run_when_a_part_is_killed_ten_times_then_nothing_is_left(
    part: str, run: int, command_line: CommandLine, programs: Programs
) -> None:
    assert run < RUNS
    assert_nothing_left(part, command_line, programs)
