"""What a box makes is gone with it, and what bounds it binds it: System V objects, cgroups, frozen tasks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kmem_harness import Harness, UnsupportedHostError
from kmem_harness.core.errors import UnkillableTaskError
from tests.support.peak import until
from tests.support.silent_fuse import silent_file_system, why_no_fuse

CGROUPS = Path("/sys/fs/cgroup")
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root's boxes may do this")
NEEDS_V1 = pytest.mark.skipif(
    not (CGROUPS / "freezer/cgroup.procs").exists(), reason="needs cgroup v1 and its freezer"
)


def system_v():
    return {
        name: Path(f"/proc/sysvipc/{name}").read_text().count("\n")
        for name in ("sem", "msg", "shm")
    }


MAKE_SYSTEM_V = """
import ctypes
libc = ctypes.CDLL(None)
assert min(libc.semget(0, 1, 0o600), libc.msgget(0, 0o600), libc.shmget(0, 4096, 0o600)) >= 0
"""


def test_system_v_objects_when_their_box_ends_then_are_gone(isolated):
    if isolated.isolation == "none" and os.geteuid() != 0:
        pytest.skip("an ordinary user has no IPC namespace without the others")
    before = system_v()
    with isolated.run([sys.executable, "-I", "-S", "-c", MAKE_SYSTEM_V], kmem_limit="8M") as box:
        assert box.wait(timeout=20) == 0
    assert system_v() == before


def test_system_v_objects_when_limited_then_are_counted_in_their_own_namespace():
    """Under 5.10 each costs some hundred bytes, wherever it lives."""
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\nmade = []\n"
        "while len(made) < 20000 and (one := libc.semget(0, 1, 0o600)) >= 0: made.append(one)\n"
        "for one in made: libc.semctl(one, 0, 0)\n"
        "again = 0\n"
        "while again < 20000 and libc.semget(0, 1, 0o600) >= 0: again += 1\n"
        "print(len(made), again)"
    )
    with (
        Harness("5.10") as harness,
        harness.run(
            [sys.executable, "-I", "-S", "-c", code],
            kmem_limit="1M",
            kinds=["sysv-sem"],
            stdout=subprocess.PIPE,
        ) as box,
    ):
        made, again = map(int, box.communicate(timeout=60)[0].split())
        kind = box.report()["kinds"]["sysv-sem"]
    assert 0 < made == again < 20000
    assert made * kind["bytes_each"] <= 1 << 20 < (made + 1) * kind["bytes_each"]


FORKS = """
import os, signal
refused = 0
for _ in range(30):
    try:
        if not os.fork():
            signal.pause()
    except OSError:
        refused += 1
print("refused", refused, flush=True)
"""


ESCAPES = {
    "write": """
for d in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts); do echo $$ > $d/cgroup.procs; done
""",
    "remount": """
mount -o remount,bind,rw /sys/fs/cgroup/pids
echo $$ > /sys/fs/cgroup/pids/cgroup.procs
""",
    "mount": """
mkdir $0/c
mount -t cgroup -o pids none $0/c || mount -t cgroup2 none $0/c
echo max > $0/c/pids.max
echo $$ > $0/c/cgroup.procs
umount $0/c
""",
}


@NEEDS_ROOT
@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_pids_max_when_root_tries_to_leave_its_cgroup_then_binds_it(escape):
    with Harness() as harness, tempfile.TemporaryDirectory() as scratch:
        try:
            box = harness.run(
                [
                    "sh",
                    "-c",
                    f'({escape}) 2>/dev/null; exec {sys.executable} -c "$1"',
                    scratch,
                    FORKS,
                ],
                pids_max=12,
                stdout=subprocess.PIPE,
            )
        except UnsupportedHostError as error:
            pytest.skip(f"{error}: {error.missing}")
        with box:
            out, _ = box.communicate(timeout=30)
            assert out == b"refused 20\n"
            box.wait(timeout=30)
            report = box.report()
    assert report["pids"] == {"max": 12, "refused": 20}
    card = report["refusals"]["first"]
    assert (card["counter"], card["errno"], card["limit"]) == ("pids", "EAGAIN", 12)
    assert report["refusals"]["total"] == 20
    assert not list(CGROUPS.glob(f"*/kmem-harness-{box.name}"))


@NEEDS_ROOT
def test_cgroups_when_a_root_box_makes_some_then_are_refused_and_none_stays():
    script = (
        "for d in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts); do "
        "mkdir $d/kmem-left && exit 1; done; exit 0"
    )
    with Harness() as harness, harness.run(["sh", "-c", script], stderr=subprocess.PIPE) as box:
        _, said = box.communicate(timeout=20)
        assert box.wait(timeout=20) == 0
    assert b"Read-only file system" in said
    assert not list(CGROUPS.glob("**/kmem-left"))


FREEZE = """
mount -t cgroup -o freezer none $0 && mkdir $0/kmem-frozen-$$ || exit 3
sleep 1000 &
echo $! > $0/kmem-frozen-$$/cgroup.procs
echo FROZEN > $0/kmem-frozen-$$/freezer.state
umount $0
"""


@NEEDS_ROOT
@NEEDS_V1
def test_box_when_it_has_frozen_a_child_then_ends_all_the_same():
    with Harness() as harness, tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        with harness.run(["sh", "-c", FREEZE, scratch], kmem_limit="8M") as box:
            assert box.wait(timeout=20) == 0
        assert time.monotonic() - began < 15
    assert not list((CGROUPS / "freezer").glob("kmem-frozen-*"))


@pytest.mark.skipif(bool(why_no_fuse()), reason=why_no_fuse() or "there is one")
@pytest.mark.parametrize(
    "isolation", ["pid", *(pytest.param(one, marks=pytest.mark.slow) for one in ("user", "none"))]
)
def test_end_when_a_task_cannot_be_killed_then_is_bounded_and_names_it(isolation, tmp_path):
    with silent_file_system(tmp_path) as asked, Harness("v4", isolation=isolation) as harness:
        box = harness.run(["stat", f"{tmp_path}/file"])
        assert asked.wait(20)
        began = time.monotonic()
        with pytest.raises(UnkillableTaskError, match=r"stat\[\d+\] \(state D"):
            box.kill()
        box.close()
        assert time.monotonic() - began < 20
        assert box.report()["exit_code"] == 125
        guard = box.running.guard_pid
    # With the answer gone, so is what waited for it, and nothing of the box is left.
    until(lambda: not _runs(guard), 10, "the guard still runs")


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(bool(why_no_fuse()), reason=why_no_fuse() or "there is one")
def test_run_when_a_child_cannot_be_killed_then_exits_125_and_names_it(tmp_path, tmp_path_factory):
    with silent_file_system(tmp_path) as asked:
        script = f"stat {tmp_path}/file & sleep 0.5; exit 0"
        command = [sys.executable, "-m", "kmem_harness", "run", "--kmem-limit", "8M", "--"]
        began = time.monotonic()
        said = tmp_path_factory.mktemp("said") / "stderr"  # what cannot be killed holds it open
        with said.open("w") as stderr:
            done = subprocess.run(
                [*command, "sh", "-c", script],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                timeout=60,
                check=False,
            )
        assert asked.is_set()
        assert time.monotonic() - began < 30  # without a bound it would be for ever
    assert done.returncode == 125
    assert "stat[" in said.read_text()
