"""What a controller may do, and how much it may have, is bounded from its start."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from kmem_harness.controller.privileges import KEPT_CAPABILITIES, MOST_DATA
from tests.controller.raw import Raw

NOBODY = 65534
KEPT = sum(1 << number for number in KEPT_CAPABILITIES.values())


def status_of(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_controller_when_it_runs_then_has_few_privileges_and_cannot_gain_any(harness):
    status = status_of(harness.controller.pid)
    assert status["NoNewPrivs"] == "1"
    # Without CAP_SYS_PTRACE, as in a default container, it needs all that its boxes have.
    ours = int(status_of("self")["CapPrm"], 16)
    kept = KEPT if ours >> KEPT_CAPABILITIES["CAP_SYS_PTRACE"] & 1 else ours
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[name], 16) & ~kept == 0, name
    if os.geteuid() == 0:  # else it had none, and may not give up what it could not have
        assert int(status["CapBnd"], 16) & ~KEPT == 0
        assert int(status["CapEff"], 16), "it could not look at other users' processes"


def test_controller_when_it_runs_then_its_memory_is_bounded_and_never_dumped(harness):
    limits = {
        name: resource.prlimit(harness.controller.pid, name)
        for name in (resource.RLIMIT_DATA, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)
    }
    assert 0 < limits[resource.RLIMIT_DATA][1] <= MOST_DATA
    assert limits[resource.RLIMIT_DATA][0] == limits[resource.RLIMIT_DATA][1]
    assert limits[resource.RLIMIT_CORE] == (0, 0)
    assert limits[resource.RLIMIT_NOFILE][0] == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # Nobody can tell from outside whether a process is dumpable, but for whom its files are.
    assert Path(f"/proc/{harness.controller.pid}/environ").stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_control_socket_when_another_user_asks_then_is_refused_with_the_reason(harness):
    """It is in a directory that only its owner may enter; this is what stands behind that."""
    directory = Path(harness.controller.directory)
    socket = directory / "control.sock"
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    socket.chmod(0o666)
    try:
        os.seteuid(NOBODY)  # who connects counts, not who it is later
        client = Raw(harness)
    finally:
        os.seteuid(0)
        directory.chmod(0o700)
        socket.chmod(0o600)
    with client:
        reply = client.ask({"op": "hello"})
    assert f"runs as user {NOBODY}" in reply["error"]["message"]
