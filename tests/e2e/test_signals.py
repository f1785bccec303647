"""Signals whose handlers lack SA_RESTART: under a limit a program sees what it sees without one."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import CommandLine
    from tests.support.programs import Programs

MODES = [
    *("calls", "threads", "children", "bystanders", "spawned", "waiting"),
    *("ignored", "stops", "execs", "exits", "traceme", "attach"),
]
#: What puts a box under a filter.
WAYS = {
    "limit": ["--kmem-limit", "64M"],
    "observe": ["--observe"],
    "faults": ["--inject", "%process:count"],
}
PIPES = """
for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.01 & done
for j in 1 2 3 4 5 6 7 8 9 10; do echo 1 2 3 | cat >/dev/null || exit 9; done
wait
"""
SLEEPS = "for i in $(seq 100); do sleep 0.05 & done; wait"
SHELLS = [name for name in ("dash", "busybox sh", "bash") if shutil.which(name.split()[0])]


@pytest.mark.parametrize("mode", MODES)
def test_program_when_nothing_is_in_its_way_then_sees_what_it_expects(
    mode: str, programs: Programs
) -> None:
    subprocess.run([str(programs["signals"]), mode], timeout=60, check=True)


@pytest.mark.parametrize("mode", MODES)
def test_program_when_signals_come_during_its_calls_then_sees_what_it_natively_sees(
    mode: str, programs: Programs, command_line: CommandLine
) -> None:
    outcome = command_line.run([str(programs["signals"]), mode], "--kmem-limit", "64M")
    assert outcome.status == 0, outcome.stderr
    assert "nothing refused" in outcome.stderr


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("script", [PIPES, SLEEPS], ids=["pipes", "sleeps"])
def test_shell_when_its_background_jobs_end_then_all_its_commands_run(
    script: str, shell: str, way: str, command_line: CommandLine
) -> None:
    """Dash and busybox take SIGCHLD without SA_RESTART: "Cannot fork", in 5 of 5 runs."""
    outcome = command_line.run([*shell.split(), "-c", script], *WAYS[way])
    assert outcome.status == 0, outcome.stderr


def test_report_when_interrupted_calls_start_over_then_counts_none_as_interrupted(
    programs: Programs, command_line: CommandLine
) -> None:
    outcome = command_line.run([str(programs["signals"]), "calls"], "--kmem-limit", "64M")
    assert outcome.status == 0, outcome.stderr
    assert outcome.report["interrupted"] == 0
    assert not [doubt for doubt in outcome.report["partial"] if "signal" in doubt]


def test_run_when_a_debugger_follows_a_shell_with_a_handler_then_sees_all_its_commands(
    command_line: CommandLine, tmp_path: Path
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "log"
    command = [strace, "-f", "-o", str(log), "sh", "-c", "trap : USR1; /bin/true; (/bin/true)"]
    outcome = command_line.run(command, "--kmem-limit", "64M")
    assert outcome.status == 0, outcome.stderr
    assert log.read_text().count('execve("/bin/true"') == 2
