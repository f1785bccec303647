"""Readers of /proc, of a process of which everything that can be named has an odd name.

The kernel writes what is read here: this process takes the name, and what it is called is known.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kmem_harness.controller.door.peers import parent_of
from kmem_harness.procfs.census import _read_stat, call_is_over, comm_of, last_child_of, tgid_of
from kmem_harness.procfs.descriptors import count_descriptors
from kmem_harness.procfs.entrants import filters_of, pid_inside
from kmem_harness.procfs.file_systems import read_mounts
from kmem_harness.procfs.holdings import _living, holdings_of
from kmem_harness.procfs.memory_maps import size_of
from kmem_harness.procfs.processes import stat_of
from kmem_harness.procfs.steps import result_of
from tests.fuzz.reader import Reader, of_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuzz.reader import Read

__all__ = ["READERS"]

_PR_SET_NAME = 15
_NR_CLONE = 56
_MOUNT = b"36 35 98:0 /r%s /mnt%s rw,noatime master:1 - ext3 /dev/%s rw,errors=continue\n"


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"{found!r}, not {wanted!r}")


def _with_threads_that_stay(pid: int) -> tuple[int, int]:
    """Read the parent of *pid*, and how many threads more it has than there are: other tests' go."""
    tasks = Path(f"/proc/{pid}/task")
    while True:
        before = len(list(tasks.iterdir()))
        parent, threads, *_ = _read_stat(pid) or (0, 0)
        if len(list(tasks.iterdir())) == before:
            return parent, threads - before


@contextmanager
def _task_name() -> Iterator[Read]:
    """Take the input for this process's name."""
    libc = ctypes.CDLL(None)
    pid, parent = os.getpid(), os.getppid()
    before = comm_of(pid).encode()
    filters = filters_of(pid)
    first = stat_of(pid)

    def read(data: bytes) -> None:
        libc.prctl(_PR_SET_NAME, data, 0, 0, 0)
        name = data.partition(b"\0")[0][:15]
        _expect(comm_of(pid), name.decode("utf-8", "replace").rstrip("\n"))
        _expect(_living(pid), name.decode("utf-8", "replace"))
        stat = stat_of(pid)
        _expect((stat.state, stat.started), ("R", first.started))
        _expect((parent_of(pid), _with_threads_that_stay(pid)), (parent, (parent, 0)))
        _expect((tgid_of(pid), pid_inside(pid), filters_of(pid)), (pid, str(pid), filters))
        _expect(call_is_over(pid, _NR_CLONE, last_child_of(pid)), False)

    yield read
    libc.prctl(_PR_SET_NAME, before, 0, 0, 0)


@contextmanager
def _memfd_name() -> Iterator[Read]:
    """Open and map a memfd of that name; a file of that name would be one of a file system."""
    pid = os.getpid()
    before = size_of(pid)
    files = result_of(count_descriptors([pid], {}, set())).kinds

    def read(data: bytes) -> None:
        name = data.partition(b"\0")[0][:249]
        fd = os.memfd_create(os.fsdecode(name))
        os.ftruncate(fd, 4096)
        with mmap.mmap(fd, 4096):
            size = size_of(pid)
            _expect(len(size.memfds - before.memfds), 1)
            _expect(size.files - before.files, frozenset())
            found = result_of(count_descriptors([pid], {}, set()))
            _expect(found.kinds["memfd"] - files["memfd"], 1)
            _expect(found.kinds["file"], files["file"])
            holdings_of(pid)
        os.close(fd)

    yield read


def _read_mountinfo(data: bytes) -> None:
    """Read a line between two others, escaped as the kernel does: what is in it stays in it."""
    name = data.partition(b"\0")[0]
    for byte in b"\\ \t\n#":
        name = name.replace(bytes((byte,)), b"\\%03o" % byte) if byte != 35 else name
    lines = _MOUNT % (b"", b"/a", b"a") + _MOUNT % (name, name, name) + _MOUNT % (b"", b"/b", b"b")
    found = list(read_mounts(lines))
    plain = data.partition(b"\0")[0]
    _expect([one.where for one in found], [b"/mnt/a", b"/mnt" + plain, b"/mnt/b"])
    _expect({(one.device, one.kind, one.read_only) for one in found}, {("98:0", "ext3", False)})


_NAMES = (
    *(b"sh", b"a) R 1 1 (b", b"x\nTgid:\t1", b"x\rNSpid:\t1", b"(a) (b)", b"", b" ", b"a b"),
    *(b"x\x0bPPid:\t1", b"kmem-init", b") Z 1", b"memfd:x (deleted)", b"\xff\xfe"),
)
_WORDS = (
    b") ",
    b" (",
    b"\nTgid:\t1",
    b"\rNSpid:\t1",
    b"\x1cPPid:\t1",
    b" (deleted)",
    b" - ",
    b"\\040",
)

READERS = {
    "task's name": Reader(_task_name, _NAMES, _WORDS, share=0.1),
    "memfd's name": Reader(_memfd_name, _NAMES, _WORDS, share=0.01),
    "mountinfo": Reader(
        of_bytes(_read_mountinfo), (*_NAMES, b"/a - tmpfs b", b"\\134\\040"), _WORDS
    ),
}
