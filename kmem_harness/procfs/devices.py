"""Find the file systems that somebody still uses, mounted or not. Knows procfs; knows no prices."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from kmem_harness.procfs.descriptors import waiting_descriptors
from kmem_harness.procfs.file_systems import read_mounts
from kmem_harness.procfs.processes import read_file

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["devices_in_use", "name_of"]

#: Of a mapping: the device of its file, as mountinfo names it but in hexadecimal digits.
_MAPPED = re.compile(rb"^\S+ \S+ \S+ ([0-9a-f]+):([0-9a-f]+) [1-9]", re.MULTILINE)


def name_of(device: int) -> str:
    """Name a device as mountinfo does."""
    return f"{os.major(device)}:{os.minor(device)}"


def devices_in_use(pids: Iterable[int]) -> set[str] | None:
    """Name the devices that *pids* use without a mount, and those that are mounted where we are.

    By descriptors, directories they are in, and mappings. ``None`` where that cannot be told: one of
    them may not be looked at, or descriptors are in messages under way.
    """
    try:
        found = {mount.device for mount in read_mounts(read_file("/proc/self/mountinfo"))}
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                for name in ("cwd", "root"):
                    found.add(name_of(os.stat(f"/proc/{pid}/{name}").st_dev))
                for number in os.listdir(f"/proc/{pid}/fd"):
                    with suppress(FileNotFoundError):
                        link = f"/proc/{pid}/fd/{number}"
                        if os.readlink(link).startswith("socket:") and waiting_descriptors(
                            pid, number
                        ):
                            return None
                        found.add(name_of(os.stat(link).st_dev))
                for major, minor in _MAPPED.findall(read_file(f"/proc/{pid}/maps")):
                    found.add(f"{int(major, 16)}:{int(minor, 16)}")
    except OSError:
        return None
    return found
