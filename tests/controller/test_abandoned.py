"""What is left of a controller that was killed together with its owner goes with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kmem_harness import Harness
from kmem_harness.controller.lifecycle.leftovers import remove_abandoned
from tests.support.leftovers import lives
from tests.support.peak import until

OLD_SECONDS = 3600
_HOLD = """
import sys
from kmem_harness import Harness
harness = Harness("v4")
print(harness.controller.pid, harness.controller.directory, flush=True)
sys.stdin.read()
"""


def age(path: Path) -> None:
    then = time.time() - OLD_SECONDS
    os.utime(path, (then, then))


@pytest.fixture
def base(monkeypatch):
    """Have controllers live in a directory of their own, of a name that is short enough."""
    with tempfile.TemporaryDirectory(prefix="kmem-t-", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield Path(directory)


@pytest.fixture
def killed(base):
    """Give the directory of a controller that was killed in one moment with its owner."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        pid, directory = owner.stdout.readline().split()
        os.kill(int(pid), signal.SIGSTOP)  # else it could clear up before it is killed itself
        owner.kill()
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: not lives(int(pid)), 5, "the controller lives")
    assert Path(directory).parent == base
    return Path(directory)


def test_leftover_when_old_then_goes_soon_after_the_next_controller_starts(killed):
    assert (killed / "control.sock").is_socket()
    age(killed)
    with Harness("v4"):
        until(lambda: not killed.exists(), 10, "it is still there")


def test_leftover_when_young_or_foreign_or_alive_then_stays(base):
    with Harness("v4") as alive:
        own = Path(alive.controller.directory)
        prefix = own.name.rsplit("-", 2)[0]
        young, old = base / f"{prefix}-1-aaaaaaaa", base / f"{prefix}-1-bbbbbbbb"
        link, foreign = base / f"{prefix}-1-cccccccc", base / "kmem-other-1-aaaaaaaa"
        for path in (young, old, foreign):
            path.mkdir()
        link.symlink_to(foreign)
        for path in (old, foreign, own):
            age(path)
        assert remove_abandoned(str(base / f"{prefix}-2-dddddddd")) == [str(old)]
        assert sorted(base.iterdir()) == sorted([young, link, foreign, own])
        with alive.run(["true"], kmem_limit="1M") as box:
            assert box.wait(timeout=30) == 0
