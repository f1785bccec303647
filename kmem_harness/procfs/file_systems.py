"""Count the inodes that file systems a box can write to have in use. Knows mounts and statvfs.

An inode that was unlinked and is still held by somebody is in use; a name is not, so renaming
changes nothing. Others may use the same file system: only differences mean anything.
"""

from __future__ import annotations

import os
import re
import select
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FileSystems", "Mount", "read_mounts"]

#: They have no inodes that last, or keep them elsewhere.
_PASSED = frozenset(
    [
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "ramfs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    ]
)
#: A process or another machine answers for them, when it likes: one that never does would stop us.
_ANSWERED_ELSEWHERE = frozenset(
    ["9p", "afs", "ceph", "cifs", "coda", "fuse", "fuseblk", "ncpfs", "nfs", "nfs4", "smb3"]
)
_TMPFS = frozenset({"tmpfs", "devtmpfs"})
#: How blanks and backslashes in names are written.
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo; ``where`` as the process sees it."""

    device: str
    where: bytes
    kind: str
    read_only: bool


class FileSystems:
    """The file systems that one process can write to."""

    def __init__(self, pid: int) -> None:
        """Look at the mounts of *pid*. Raises: OSError if it is gone."""
        self._root = f"/proc/{pid}/root"
        self._namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        self._mounts = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._mounts, select.POLLPRI)
        #: Path and class ("tmpfs" or "disk") by device.
        self._systems: dict[str, tuple[str, str]] = {}
        #: Types of those that do not say how many inodes are in use.
        self.silent: set[str] = set()
        self._read_mounts()

    def used(self) -> dict[str, int]:
        """Give the inodes in use. Shape: by device, for those of :meth:`class_of`."""
        if self._changes.poll(0):
            self._read_mounts()
        used = {}
        for device, (path, _) in self._systems.items():
            with suppress(OSError):  # unmounted since
                figures = os.statvfs(path)
                used[device] = figures.f_files - figures.f_ffree
        return used

    def are_all_seen_by(self, pids: list[int]) -> bool:
        """Say whether none of *pids* has mounts of its own, as far as may be seen."""
        try:
            for pid in pids:
                with suppress(FileNotFoundError, ProcessLookupError):  # it is gone
                    if os.readlink(f"/proc/{pid}/ns/mnt") != self._namespace:
                        return False
        except OSError:  # one that is not dumpable hides from all but root: it may have some
            return False
        return True

    def class_of(self, device: str) -> str:
        """Say what a device's names cost: as on "tmpfs" or as on "disk"."""
        return self._systems[device][1] if device in self._systems else "disk"

    def classes(self) -> set[str]:
        """Say which classes there are."""
        return {kind for _, kind in self._systems.values()}

    def close(self) -> None:
        """Let go of the mounts."""
        os.close(self._mounts)

    def _read_mounts(self) -> None:
        os.lseek(self._mounts, 0, os.SEEK_SET)
        text = b""
        while more := os.read(self._mounts, 65536):
            text += more
        systems: dict[str, tuple[str, str]] = {}
        disks: set[tuple[int, ...]] = set()
        self.silent = set()
        # Of those at one place the last hides the others: what its path says is not theirs.
        on_top = {mount.where: mount for mount in read_mounts(text)}
        for mount in on_top.values():
            device, kind = mount.device, mount.kind
            if kind in _PASSED or device in systems or mount.read_only:
                continue
            if kind.partition(".")[0] in _ANSWERED_ELSEWHERE:
                self.silent.add(kind)
                continue
            path = self._root + os.fsdecode(mount.where)
            try:
                figures = os.statvfs(path)
            except OSError:  # behind something the box itself could not pass
                continue
            if not figures.f_files:
                self.silent.add(kind)
            elif kind in _TMPFS:
                systems[device] = (path, "tmpfs")
            else:
                # An overlay gives the figures of the disk below it, which may be mounted, too.
                same = (figures.f_files, figures.f_ffree, figures.f_blocks, figures.f_bfree)
                if same not in disks:
                    disks.add(same)
                    systems[device] = (path, "disk")
        self._systems = systems


def read_mounts(text: bytes) -> Iterator[Mount]:
    """Read what mountinfo says. Of the names in it only newlines are sure to be escaped.

    Source: fs/proc_namespace.c, show_mountinfo: a blank, a tab, a newline and a backslash are.
    """
    for line in text.split(b"\n")[:-1]:
        mount, _, system = line.partition(b" - ")
        _, _, device, _, where, options, *_ = mount.split(b" ")
        kind, _, flags = system.split(b" ")[:3]
        yield Mount(
            device.decode("ascii"),
            _ESCAPED.sub(lambda match: bytes((int(match[1], 8),)), where),
            os.fsdecode(kind),
            read_only=b"ro" in options.split(b",") or b"ro" in flags.split(b","),
        )
