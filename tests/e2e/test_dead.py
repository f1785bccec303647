"""What is gone is not charged, however hard a box makes it to see that."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine

PROGRAM = Path(__file__).parents[1] / "programs" / "one_at_a_time.py"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do that in a box")


def refused(
    command_line: CommandLine, cause: str, what: str, cycles: int, where: Path, *options: str
) -> str:
    command = [sys.executable, str(PROGRAM), cause, what, str(cycles), str(where)]
    outcome = command_line.run(command, "--kmem-limit", "1M", *options, patience=60 + cycles / 500)
    assert outcome.tally().keys() == {"refused"}, outcome
    return outcome.tally()["refused"]


@needs_root
@pytest.mark.parametrize("cycles", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cause", ["own mounts", "own users and mounts", "short-lived mounts"])
def test_names_when_a_process_has_mounts_of_its_own_then_those_that_are_gone_are_not_charged(
    cause: str, cycles: int, command_line: CommandLine, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    assert refused(command_line, cause, "name", cycles, tmp_path) == "0"


@needs_root
def test_names_when_their_file_system_is_unmounted_then_are_not_charged(
    command_line: CommandLine, tmp_path: Path
) -> None:
    script = f"""
for each in 1 2 3 4 5 6 7 8 9 10 11 12; do
    mount -t tmpfs none {tmp_path}
    for name in $(seq 100); do : > {tmp_path}/$name; done
    umount {tmp_path}
done
"""
    outcome = command_line.run(["sh", "-e", "-c", script], "--kmem-limit", "1M")
    assert (outcome.status, outcome.report["refusals"]["total"]) == (0, 0), outcome
