"""The shim as a program: what it asks the kernel for, and what it answers its supervisor."""

from __future__ import annotations

import errno
import os
import platform
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

from kmem_harness.interposer.filter import (
    FALLBACK_FLAGS,
    FILTER_FLAGS,
    WAIT_KILLABLE_RECV,
    Condition,
    FilterPlan,
    offer,
)
from kmem_harness.interposer.syscalls import Architecture, native_architecture
from kmem_harness.runtimes.local import SHIM

if TYPE_CHECKING:
    from pathlib import Path

_OUTCOME = struct.Struct("=IiI20s")  # struct outcome of shim.c: magic, err, flags, step
_SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]

# Makes the kernel look like one before 5.19, whose first answer to an unknown flag is EINVAL, and
# goes on without a privilege and without no_new_privs, as a login shell is.
_WITHOUT_PRIVILEGE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
program = bytes.fromhex(sys.argv[1])
if os.geteuid() != 0 and libc.unshare(0x10000000) < 0:  # CLONE_NEWUSER: may install a filter
    sys.exit(77)
filters = ctypes.create_string_buffer(program)
class Program(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("filters", ctypes.c_void_p)]
fprog = Program(len(program) // 8, ctypes.addressof(filters))
assert libc.prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
assert libc.prctl(28, 3, 0, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECUREBITS: root is nobody
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert libc.capset(header, (ctypes.c_uint32 * 6)()) == 0, ctypes.get_errno()
os.execv(sys.argv[2], sys.argv[2:])
"""


def outcome_of(directory: Path, before: list[str]) -> tuple[int, int, str]:
    """Start the shim behind *before*, and give its answer: errno, flags, step."""
    path = str(directory / "s")
    plan = FilterPlan(native_architecture(), frozenset({"mkdir"}), {}, {})
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        listening.settimeout(10)
        with subprocess.Popen(
            [*before, str(SHIM), path, "true"], stderr=subprocess.PIPE, text=True
        ) as shim:
            try:
                peer, _ = listening.accept()
            except TimeoutError:
                shim.kill()
                raise AssertionError(shim.communicate()[1]) from None
            with peer:
                peer.sendall(offer(plan))
                answer, fds, _, _ = socket.recv_fds(peer, _OUTCOME.size, 1)
                peer.sendall(b"!")
                assert shim.wait(10) == 0, shim.communicate()[1]
                for fd in fds:
                    os.close(fd)
    _, number, flags, step = _OUTCOME.unpack(answer)
    assert len(fds) == (number == 0)
    return number, flags, step.rstrip(b"\0").decode()


def test_shim_when_the_kernel_judges_flags_before_privilege_then_still_has_a_filter(tmp_path):
    """It met EINVAL where it expected EACCES first: an ordinary user had no filter before 5.19."""
    here = native_architecture()
    old_kernel = FilterPlan(
        Architecture(here.name, here.audit_token, {"seccomp": _SECCOMP}, here.x32_bit),
        trap=frozenset(),
        deny={"seccomp": errno.EINVAL},
        only_if={"seccomp": Condition(arg=1, mask=WAIT_KILLABLE_RECV)},
    )
    program = old_kernel.program().hex()
    without = [sys.executable, "-c", _WITHOUT_PRIVILEGE, program]
    assert outcome_of(tmp_path, without) == (0, FALLBACK_FLAGS, "")


def test_shim_when_the_kernel_knows_every_flag_then_takes_them_all(tmp_path):
    assert outcome_of(tmp_path, []) == (0, FILTER_FLAGS, "")
