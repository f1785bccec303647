"""Kill any part of a run in the middle of a bomb, and within two seconds nothing of it is left."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.bombs import bomb_command
from tests.support.command_line import find_parts
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
CGROUPS = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]


def assert_nothing_left(part: str, command_line: CommandLine, programs: Programs) -> None:
    mounts = _procfs_mounts()
    command = bomb_command("tree", programs, 30)
    options = ["--kernel", "v4", "--kmem-limit", str(LIMIT * STACK), "--pids-max", "200"]
    process = command_line.start(command, *options)
    try:
        parts = find_parts(process)
        until(lambda: len(descendants(parts.init)) > LIMIT / 2, 10, "the bomb did not multiply")
        family = [process.pid, *descendants(process.pid)]
        cgroups = _cgroups(process.pid)
        assert cgroups or os.geteuid()
        namespace = Path(f"/proc/{parts.init}/ns/pid").readlink() if parts.has_namespace else None
        os.kill(getattr(parts, part), signal.SIGKILL)
        until(lambda: not any(map(_lives, family)), GONE_SECONDS, "processes are left")
        # The bomb has made more since we listed the family.
        until(lambda: not _living_in(namespace), GONE_SECONDS, "tasks of the box are left")
        until(lambda: not command_line.leftovers(), GONE_SECONDS, "sockets or files are left")
        until(lambda: not any(map(Path.exists, cgroups)), GONE_SECONDS, "a cgroup is left")
    finally:
        process.kill()
        outcome = command_line.finish(process)
    assert _procfs_mounts() <= mounts
    if part == "controller":
        assert outcome.status == OWN_FAILURE
        assert "controller" in outcome.stderr
    elif part != "cli":
        assert outcome.status in (OWN_FAILURE, 128 + signal.SIGKILL)


def _procfs_mounts() -> set[str]:
    """List the mounts of the kind a box makes; an engine beside us makes and ends its own."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if " - proc " in line}


def _living_in(namespace: Path | None) -> list[int]:
    if namespace is None:
        return []
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in processes if _namespace(pid) == namespace and _lives(pid)]


def _namespace(pid: int) -> Path | None:
    with suppress(OSError):
        return Path(f"/proc/{pid}/ns/pid").readlink()
    return None


def _lives(pid: int) -> bool:
    """A zombie does not count: its parent here is the test, or whoever adopts orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _cgroups(cli: int) -> list[Path]:
    pattern = f"kmem-harness-{cli:x}-*"
    return [found for root in CGROUPS if root.is_dir() for found in root.glob(pattern)]


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
