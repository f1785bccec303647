"""Which file systems a box's processes see, asked of processes that may hide it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest

from kmem_harness.procfs.file_systems import FileSystems


def test_processes_when_one_hides_then_what_is_mounted_there_is_known_all_the_same(monkeypatch):
    """A target without namespaces, run as our own user, undumped itself: the controller died."""
    with closing(FileSystems(os.getpid())) as systems:
        assert systems.see([os.getpid()])

        def denied(path):
            raise PermissionError(path)

        monkeypatch.setattr(os, "readlink", denied)
        assert systems.see([os.getpid()])
        # ... unless something else is.
        monkeypatch.setattr(systems, "_own", systems._own._replace(devices=set()))
        assert not systems.see([os.getpid()])


def test_processes_when_one_is_gone_then_it_has_no_mounts():
    with closing(FileSystems(os.getpid())) as systems:
        assert systems.see([2**22 + 1])


_MOUNTER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x10000000, 0x20000, 0x4000, 0x40000
uid, gid = os.geteuid(), os.getegid()
if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
    sys.exit(os.strerror(ctypes.get_errno()))
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
open("/proc/self/gid_map", "w").write(f"0 {gid} 1")
if libc.mount(b"none", sys.argv[1].encode(), b"tmpfs", 0, b"nr_inodes=100"):
    sys.exit(os.strerror(ctypes.get_errno()))
for name in sys.argv[2:]:
    path = os.fsencode(os.path.join(sys.argv[1], name))
    os.mkdir(path)
    if libc.mount(b"none", path, b"tmpfs", 0, b"nr_inodes=100"):
        sys.exit(os.strerror(ctypes.get_errno()))
    open(path + b"/file", "w")
print("mounted", flush=True)
sys.stdin.read()
"""


def test_mounts_when_their_names_hold_line_ends_then_each_is_seen(tmp_path):
    """A box could mount at such a name, and what read it took its half for a line: it ended all."""
    names = ["a\rb", "a\x0bb", "a\x1cb", "a\x85b", "a\u2028b", "a\nb", "a b", "a\\040b", "\udcff"]
    with subprocess.Popen(
        [sys.executable, "-c", _MOUNTER, tmp_path, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        if process.stdout.readline() != b"mounted\n":
            process.stdin.close()
            pytest.skip(f"no mounts in a user namespace: {process.stderr.read().decode()}")
        with closing(FileSystems(process.pid)) as systems:
            used = systems.used()
            mine = [used[device] for device in used if systems.class_of(device) == "tmpfs"]
            # The root of each and one file, and in the one above a directory for each.
            assert mine.count(2) >= len(names)
            assert len(names) + 1 in mine
        process.kill()


def test_file_systems_when_one_is_mounted_over_another_then_only_the_upper_is_counted(tmp_path):
    if os.geteuid():
        pytest.skip("only root can mount without further ado")
    program = (
        "import os; from kmem_harness.procfs.file_systems import FileSystems; "
        f"print(sum(path.endswith({bytes(tmp_path)!r}) for _, path in "
        "FileSystems(os.getpid())._own.places.values()))"
    )
    mount = f"mount -t tmpfs none {tmp_path}"
    script = f'{mount} && {mount} && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, program]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    assert outcome.stdout == "1\n"
