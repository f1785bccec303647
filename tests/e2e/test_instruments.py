"""The instruments and the test programs, without the harness: what they measure is true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.bombs import BOMBS, bomb_command
from tests.support.peak import NamespacePeak, PidsCgroup, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.programs import Programs

BACKSTOP = 40
ROOT = Path(__file__).parent.parent.parent
NEIGHBOUR = ROOT / "kmem_harness" / "demos" / "neighbour.py"


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_when_nothing_else_holds_it_then_reaches_the_backstop_and_dies_with_it(
    bomb: str, programs: Programs, pids_cgroup: Callable[[int], PidsCgroup]
) -> None:
    with pids_cgroup(BACKSTOP) as cgroup:
        command = cgroup.command(bomb_command(bomb, programs, 5))
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            until(lambda: cgroup.peak == BACKSTOP, 5, "the bomb did not multiply")
            cgroup.kill()
        assert process.returncode == -9
        assert cgroup.peak == BACKSTOP


def test_fork_pause_when_the_backstop_is_met_then_counts_exactly_what_the_kernel_counts(
    programs: Programs, pids_cgroup: Callable[[int], PidsCgroup]
) -> None:
    with pids_cgroup(BACKSTOP) as cgroup:
        command = cgroup.command([str(programs["fork_pause"]), "1000"])
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        assert outcome.stdout == f"children={BACKSTOP - 1} errno=EAGAIN\n"
        assert cgroup.peak == BACKSTOP
        assert cgroup.current == 0


def test_namespace_peak_when_watching_a_tree_then_agrees_with_the_kernel(
    programs: Programs,
) -> None:
    command = [str(programs["fork_pause"]), "25", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with NamespacePeak(root=process.pid) as watch:
            assert process.stdout.readline() == "children=25 errno=none\n"
            watch.stop()
    assert watch.stop().peak == 26
    assert watch.stop().scans > 0


def test_namespace_peak_when_tasks_come_and_go_then_never_overstates(programs: Programs) -> None:
    command = [str(programs["fork_wait"]), "1000"]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as process,
        NamespacePeak(root=process.pid) as watch,
    ):
        process.wait(timeout=20)
    assert watch.stop().peak <= 2


def test_neighbour_when_run_then_reports_its_latency_as_one_line_of_json() -> None:
    command = [sys.executable, "-I", "-S", str(NEIGHBOUR), "0.2", "2000"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    figures = json.loads(outcome.stdout)
    assert figures["samples"] == 100
    assert figures["failures"] == 0
    assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["max_us"]


def test_neighbour_when_arguments_are_unusable_then_names_them_and_exits_2() -> None:
    command = [sys.executable, "-I", "-S", str(NEIGHBOUR), "soon"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert outcome.returncode == 2
    assert "soon" in outcome.stderr
