"""pytest's own processes die in the middle of tests with boxes: it is told, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.chaos.loads import OBJECTS
from tests.e2e.conftest import command_line, programs
from tests.support.bombs import bomb_command
from tests.support.leftovers import PidNamespace, cgroups_of, lives
from tests.support.peak import NamespacePeak, descendants, until

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine
    from tests.support.programs import Programs

__all__ = ["command_line", "programs"]

STACK = 8192
NOT_CHARGED = 2  # init and target
GONE_SECONDS = 5.0
RUNS = 10
NR_TESTS = 4
TESTS = f"""
import json, pytest

@pytest.mark.limit_kmem({OBJECTS * STACK})
@pytest.mark.parametrize("number", range({NR_TESTS}))
def test_bomb(number, kmem_container):
    box = kmem_container(json.loads('COMMAND'), pids_max=200)
    assert box.wait(timeout=60) == 0
    assert box.refusals
"""


class TestRun:
    """``pytest -n 2`` over some bombs."""

    __test__ = False

    def __init__(self, command_line: CommandLine, programs: Programs) -> None:
        """Start it, and wait until it has two boxes."""
        import json

        directory = command_line.directory
        bomb = json.dumps(bomb_command("tree", programs, 2))
        (directory / "test_bombs.py").write_text(TESTS.replace("COMMAND", bomb))
        self.junit = directory / "junit.xml"
        self.command_line = command_line
        words = ["-n", "2", "-p", "no:cacheprovider", "--kmem-kernel", "v4", "-c", os.devnull]
        words += [f"--basetemp={directory / 'tmp'}"]
        words += [f"--rootdir={directory}", f"--junitxml={self.junit}", str(directory)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words],
            env=command_line.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.inits: dict[int, int] = {}  # by worker
        until(self._has_two_boxes, 60, "no two workers have a box")
        self.family = [self.process.pid, *descendants(self.process.pid)]
        self.namespaces = {worker: PidNamespace(init) for worker, init in self.inits.items()}
        self.owners = [self.process.pid, *self.inits]

    def _has_two_boxes(self) -> bool:
        for worker in _children(self.process.pid):
            inits = [pid for pid in descendants(worker) if _runs_init(pid)]
            if len(inits) > 1:  # the guard comes first
                self.inits[worker] = inits[1]
        return len(self.inits) == 2

    def see_nothing_left(self) -> float:
        """See that nothing is left of it; say how long that took."""
        began = time.monotonic()
        until(lambda: not any(map(lives, self.family)), GONE_SECONDS, "processes are left")
        for namespace in self.namespaces.values():
            until(namespace.is_empty, GONE_SECONDS, "tasks are left")
            namespace.close()
        until(lambda: not self.command_line.leftovers(), GONE_SECONDS, "files are left")
        until(lambda: not any(map(cgroups_of, self.owners)), GONE_SECONDS, "cgroups are left")
        return time.monotonic() - began


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]
    return []


def _runs_init(pid: int) -> bool:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[0].endswith(b"/kmem-init") and b"--" in words
    return False


def see_worker_die(command_line: CommandLine, programs: Programs) -> None:
    run = TestRun(command_line, programs)
    try:
        victim, init = next(iter(run.inits.items()))
        gone = descendants(victim)
        with NamespacePeak(init=init) as watch:
            time.sleep(0.2)  # so that it burns
            os.kill(victim, signal.SIGKILL)
            until(lambda: not any(map(lives, gone)), GONE_SECONDS, "its processes are left")
            until(run.namespaces[victim].is_empty, GONE_SECONDS, "its box is left")
        assert watch.stop().peak - NOT_CHARGED <= OBJECTS
        output, _ = run.process.communicate(timeout=60)
    finally:
        run.process.kill()
    assert run.process.returncode == 1, output
    assert "crashed while running" in output
    cases = list(ET.parse(run.junit).iter("testcase"))  # noqa: S314 - our own file
    failed = [
        case for case in cases for kind in ("failure", "error") if case.find(kind) is not None
    ]
    assert (len(cases), len(failed)) == (NR_TESTS, 1), output
    run.see_nothing_left()


def test_worker_when_killed_with_a_bomb_in_its_box_then_is_reported_and_the_rest_passes(
    command_line: CommandLine, programs: Programs
) -> None:
    see_worker_die(command_line, programs)


def test_test_run_when_killed_with_bombs_in_its_boxes_then_nothing_is_left(
    command_line: CommandLine, programs: Programs
) -> None:
    run = TestRun(command_line, programs)
    run.process.kill()
    run.see_nothing_left()
    run.process.communicate()


@pytest.mark.slow
def test_worker_when_stopped_for_a_while_then_all_pass(
    command_line: CommandLine, programs: Programs
) -> None:
    run = TestRun(command_line, programs)
    victim = next(iter(run.inits))
    os.kill(victim, signal.SIGSTOP)
    time.sleep(0.5)  # the fault itself
    os.kill(victim, signal.SIGCONT)
    output, _ = run.process.communicate(timeout=60)
    assert f"{NR_TESTS} passed" in output
    run.see_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("run", range(RUNS))
def test_worker_when_killed_ten_times_then_is_reported_each_time(
    run: int, command_line: CommandLine, programs: Programs
) -> None:
    assert run < RUNS
    see_worker_die(command_line, programs)
