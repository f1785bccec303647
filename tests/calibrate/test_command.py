"""The command as it is run, on hosts whose kernel counts."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kmem_harness.calibrate.memcg import find_hierarchy
from kmem_harness.cli import main
from kmem_harness.core.errors import UnsupportedHostError
from kmem_harness.costs.table import load_costs

COMMAND = [sys.executable, "-m", "kmem_harness", "calibrate"]


@pytest.fixture
def hierarchy() -> str:
    try:
        return find_hierarchy()
    except UnsupportedHostError as error:
        pytest.skip(str(error))


def left_of(hierarchy: str, pid: int) -> list[str]:
    """List the memcgs and directories that the command with *pid* has left."""
    memcgs = [str(path) for path in Path(hierarchy).glob(f"kmem-calibrate-{pid}-*")]
    return memcgs + [str(path) for path in Path("/dev/shm").glob(f"kmem-calibrate-{pid}-*")]


def processes_in(hierarchy: str, pid: int) -> list[int]:
    """List the processes in the memcgs of the command with *pid*."""
    found: list[int] = []
    for memcg in Path(hierarchy).glob(f"kmem-calibrate-{pid}-*"):
        with suppress(OSError):  # removed meanwhile
            found += map(int, (memcg / "cgroup.procs").read_text().split())
    return found


def run(*arguments: str) -> tuple[int, str, str, int]:
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        out, err = process.communicate(timeout=170)
    return process.returncode, out, err, process.pid


def test_calibrate_when_run_for_some_kinds_then_their_table_holds_against_the_kernel(
    hierarchy, tmp_path
):
    file = tmp_path / "costs.toml"
    kinds = ("--kind", "pipe", "--kind", "page-table")
    status, out, err, pid = run("-o", str(file), "--check", *kinds)
    assert status == 0, out + err
    assert [line.split()[0] for line in out.splitlines()[1:] if line.strip()] == [
        *("page-table", "pipe")
    ]
    table, base = load_costs(str(file)), load_costs("5.10")
    assert table.kinds["page-table"].nbytes == pytest.approx(4_096, rel=0.02)
    # No kernel makes a pipe of much less or more than 5.10's.
    assert table.kinds["pipe"].nbytes == pytest.approx(base.kinds["pipe"].nbytes, rel=0.3)
    assert table.kinds["file"] == base.kinds["file"]
    assert not left_of(hierarchy, pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_calibrate_when_interrupted_then_leaves_nothing_behind(hierarchy, number):
    with subprocess.Popen(
        [*COMMAND, "--kind", "page-table", "--kind", "exec"], stdout=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 30
        while not (procs := processes_in(hierarchy, process.pid)):
            assert time.monotonic() < deadline
        pidfd = os.pidfd_open(procs[0])
        process.send_signal(number)
        assert process.wait(30) == (130 if number == signal.SIGINT else 143)
    try:
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)
    assert not left_of(hierarchy, process.pid)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kind", "soup"), "--kind soup is not measured; give one of vma,"),
        (("--costs", "5.10"), "--costs is for --check"),
        (("-o", "/nowhere/at/all.toml"), "-o /nowhere/at/all.toml: no file can be written there"),
    ],
)
def test_calibrate_when_options_are_bad_then_says_so_before_anything_is_made(
    arguments, said, capsys
):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_calibrate_when_not_root_then_says_how_to_get_there(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--kind", "vma"])
    assert ended.value.code == 125
    said = capsys.readouterr().err
    assert "kernel memory cannot be measured on this host: " in said
    assert "what to do: run as root" in said


@pytest.mark.slow
def test_calibrate_when_run_in_full_then_every_kind_holds_in_two_minutes(hierarchy, tmp_path):
    began = time.monotonic()
    status, out, err, pid = run("-o", str(tmp_path / "costs.toml"), "--check")
    assert status == 0, out + err
    assert time.monotonic() - began < 120
    assert "mixed" in out
    assert not left_of(hierarchy, pid)
