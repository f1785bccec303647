"""What calls make is charged by their scalar arguments alone, refused at the limit, and taken back."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from kmem_harness import Harness
from kmem_harness.interposer.syscalls import native_architecture

PROGRAM = """
import ctypes, json, os, resource, socket, sys
syscall = ctypes.CDLL(None, use_errno=True).syscall
numbers, call, most = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
pair = socket.socketpair()
here = ctypes.create_string_buffer(b"/")
rules = (ctypes.c_uint64 * 2)(8191, 0)
pidfd, size = ctypes.c_int(), ctypes.c_uint32(4)
how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_RDWR, 0o600, 0)
opened = os.open("f", os.O_CREAT | os.O_RDWR)
value = ctypes.create_string_buffer(60000)
def made(number):
    name = ctypes.create_string_buffer(b"o%d" % number)
    address = ctypes.create_string_buffer(b"\\1\\0b%d" % number, 16)
    attribute = ctypes.create_string_buffer(b"user.a%d" % number)
    context = ctypes.c_ulong()
    if call == "bind":
        with socket.socket(socket.AF_UNIX) as made:
            return syscall(ctypes.c_long(numbers[call]), made.fileno(), address, 10)
    words = {
        "open_tree": (-100, here, 0),
        "fsopen": (ctypes.c_char_p(b"tmpfs"), 0),
        "landlock_create_ruleset": (rules, 16, 0),
        "memfd_secret": (0,),
        "userfaultfd": (1,),
        "getsockopt": (pair[0].fileno(), 1, 77, ctypes.byref(pidfd), ctypes.byref(size)),
        "io_setup": (1, ctypes.byref(context)),
        "semget": (0, 3200, 0o600),
        "fcntl": (0, 0, most - 1),
        "openat2": (-100, name, ctypes.byref(how), 24),
        "fsetxattr": (opened, attribute, value, 60000, 0),
    }[call]
    done = syscall(ctypes.c_long(numbers[call]), *words)
    if call == "openat2" and done >= 0:
        os.close(done)
    return done
error = nr = 0
while nr < most:
    if made(nr) < 0:
        error = ctypes.get_errno()
        break
    nr += 1
print(nr, error, flush=True)
sys.stdin.read()
if call == "semget":
    for line in open("/proc/sysvipc/sem").read().splitlines()[1:]:
        _, number, _, nr_semaphores, *_ = line.split()
        if nr_semaphores == "3200":
            syscall(ctypes.c_long(numbers["semctl"]), int(number), 0, 0)
os.closerange(3, hard if hard < 100000 else 100000)
print("closed", flush=True)
import time
time.sleep(60)
"""
#: By call: its kind, how many are tried at most, and what is made is less than.
CALLS = {
    "open_tree": ("file", 6000, 4000),
    "fsopen": ("fs-context", 4000, 1800),
    "landlock_create_ruleset": ("anon-file", 4000, 2300),
    "memfd_secret": ("memfd", 2000, 900),
    "userfaultfd": ("userfaultfd", 2000, 1010),
    "getsockopt": ("anon-file", 4000, 2300),
    "io_setup": ("aio-context", 2000, 860),
    "semget": ("sysv-semaphores", 60, 6),
    "openat2": ("file-ext4", 2000, 900),
    "bind": ("file-ext4", 2000, 900),
}


def run(harness, call, most, tmp_path):
    numbers = dict(native_architecture().numbers)
    numbers["semctl"] = {"x86_64": 66, "aarch64": 191}[os.uname().machine]
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, json.dumps(numbers), call, str(most)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return harness.run(command, kmem_limit="1M", cwd=str(tmp_path), **pipes)


@pytest.fixture(scope="module")
def harness():
    with Harness("5.10") as harness:
        yield harness


@pytest.mark.parametrize("call", CALLS)
def test_objects_when_made_by_a_call_then_are_charged_refused_and_taken_back(
    call, harness, tmp_path
):
    kind, most, fewer = CALLS[call]
    with run(harness, call, most, tmp_path) as box:
        said = box.running.stdout.readline().split()
        assert said, "it ended before it had made any"
        made, error = int(said[0]), int(said[1])
        if error in {errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL} and not made:
            pytest.skip(f"{call}: {os.strerror(error)} here")
        # A name is refused as one of either kind of file system, as its device says.
        assert error in {errno.ENOMEM, errno.ENOSPC}
        assert 0 < made < fewer
        report = box.report()
        assert report["refusals"]["total"] >= 1
        if call not in {"openat2", "bind"}:
            assert report["kinds"][kind]["charged"] >= made
        box.running.stdin.close()
        assert box.running.stdout.readline() == b"closed\n"
        if call not in {"openat2", "bind", "io_setup"}:  # those last
            assert box.memcg.kmem.usage < 400_000
        box.kill()


def test_table_when_a_descriptor_is_put_far_beyond_it_by_fcntl_then_is_charged_for(
    harness, tmp_path
):
    with run(harness, "fcntl", 200_000, tmp_path) as box:
        made, error = map(int, box.running.stdout.readline().split())
        if error in {errno.EINVAL, errno.EMFILE}:
            pytest.skip("no so many descriptors may be had")
        assert (made, error) == (0, errno.ENOMEM)
        assert box.report()["kinds"]["descriptor-table"]["refused"] == 1
        box.kill()


def test_attributes_when_set_on_a_tmpfs_then_are_charged_as_inodes_of_their_size(harness):
    with tmpfs() as path, run(harness, "fsetxattr", 100, path) as box:
        made, error = map(int, box.running.stdout.readline().split())
        if error in {errno.EOPNOTSUPP, errno.ENOSPC} and not made:
            pytest.skip("no attributes of users on a tmpfs here")
        assert error == errno.ENOMEM
        assert 5 <= made < 25
        box.kill()


class tmpfs:  # noqa: N801 - a context, as in with open
    """A directory in the memory file system that every host has, if it has one."""

    def __enter__(self):
        import tempfile

        if not os.path.ismount("/dev/shm"):
            pytest.skip("no tmpfs on /dev/shm")
        self._directory = tempfile.TemporaryDirectory(dir="/dev/shm")
        return self._directory.__enter__()

    def __exit__(self, *error):
        self._directory.__exit__(*error)
