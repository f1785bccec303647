"""Find the file systems that somebody still uses, mounted or not. Knows procfs; knows no prices."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.procfs.descriptors import waiting_descriptors
from kmem_harness.procfs.file_systems import read_mounts
from kmem_harness.procfs.libc import libc
from kmem_harness.procfs.pids import numbers_in
from kmem_harness.procfs.processes import blocks_of, read_file
from kmem_harness.procfs.steps import in_steps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.procfs.steps import Steps

__all__ = ["device_of", "devices_in_use"]

#: Of a mapping: the device of its file, as mountinfo names it but in hexadecimal digits.
_MAPPED = re.compile(rb"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) [1-9]", re.MULTILINE)


#: struct statx (include/uapi/linux/stat.h): stx_dev_major and stx_dev_minor.
_NR_STATX = {"x86_64": 332, "aarch64": 291}.get(os.uname().machine)
_DEVICE = struct.Struct("=136xII")
_NO_SERVER = 0x4800  # AT_STATX_DONT_SYNC, AT_NO_AUTOMOUNT
_AT_FDCWD = -100


def device_of(path: str) -> str:
    """Name the device that *path* leads to, as mountinfo does, and ask no file server for it.

    Raises: OSError.
    """
    buffer = ctypes.create_string_buffer(256)
    if _NR_STATX is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc().syscall(_NR_STATX, _AT_FDCWD, path.encode(), _NO_SERVER, 0, buffer):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    major, minor = _DEVICE.unpack_from(buffer)
    return f"{major}:{minor}"


def devices_in_use(pids: Iterable[int]) -> Steps[set[str] | None]:
    """Name the devices that *pids* use without a mount, and those that are mounted where we are.

    By descriptors, directories they are in, and mappings. ``None`` where that cannot be told: one of
    them may not be looked at, or descriptors are in messages under way.
    """
    try:
        found = {mount.device for mount in read_mounts(read_file("/proc/self/mountinfo"))}
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                for name in ("cwd", "root"):
                    found.add(device_of(f"/proc/{pid}/{name}"))
                for number, ends_step in in_steps((yield from numbers_in(f"/proc/{pid}/fd"))):
                    if ends_step:
                        yield
                    with suppress(FileNotFoundError):
                        link = f"/proc/{pid}/fd/{number}"
                        if os.readlink(link).startswith("socket:") and waiting_descriptors(
                            pid, number
                        ):
                            return None
                        found.add(device_of(link))
                for lines in blocks_of(f"/proc/{pid}/maps"):
                    for major, minor in _MAPPED.findall(lines):
                        found.add(f"{int(major, 16)}:{int(minor, 16)}")
                    yield
    except OSError:
        return None
    return found
