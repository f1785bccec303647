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

from kmem_harness.procfs.processes import read_file

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


class _View(NamedTuple):
    """File systems as one process sees them: where they are, in its eyes and in ours, by device."""

    places: dict[str, bytes]
    paths: dict[str, str]
    #: Types of those that do not say how many inodes are in use.
    silent: set[str]
    #: All that are mounted.
    devices: set[str]


class FileSystems:
    """The file systems that the processes of a box can write to."""

    def __init__(self, pid: int) -> None:
        """Look at the mounts of *pid*, which all others start from. Raises: OSError if it is gone."""
        self._root = f"/proc/{pid}/root"
        self._namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        self._mounts = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._mounts, select.POLLPRI)
        self._own = _View({}, {}, set(), set())
        #: Likewise for processes with mounts of their own, as they were looked at last. Nothing is held
        #: open for them: it would keep what they mount. By namespace and root: the text of its
        #: mountinfo, and what that said.
        self._others: dict[tuple[str, int, int], tuple[bytes, _View]] = {}
        #: By device, those seen at any time.
        self._classes: dict[str, str] = {}
        self._ids: dict[str, int] = {}
        #: Devices that stand for another file system than at the look before the last.
        self.replaced: set[str] = set()
        self._read_own()

    @property
    def silent(self) -> set[str]:
        """Types of those that do not say how many inodes are in use."""
        return self._own.silent.union(*(view.silent for _, view in self._others.values()))

    def used(self) -> dict[str, int]:
        """Give the inodes in use. Shape: by device, for those of :meth:`class_of`."""
        if self._changes.poll(0):
            self._read_own()
        used: dict[str, int] = {}
        self.replaced = set()
        # Of one that several see it is enough to ask once, and their root may be gone by now.
        for view in (self._own, *(view for _, view in self._others.values())):
            for device, path in view.paths.items():
                if device not in used:
                    with suppress(OSError):  # unmounted since
                        figures = os.statvfs(path)
                        used[device] = figures.f_files - figures.f_ffree
                        if self._ids.setdefault(device, figures.f_fsid) != figures.f_fsid:
                            self._ids[device] = figures.f_fsid
                            self.replaced.add(device)
        return used

    def see(self, pids: list[int]) -> bool:
        """Look at the mounts of those of *pids* that have some of their own, too.

        False if that may not be seen of one of them.
        """
        others: dict[tuple[str, int, int], tuple[bytes, _View]] = {}
        hidden: list[int] = []
        for pid in pids:
            try:
                namespace = os.readlink(f"/proc/{pid}/ns/mnt")
                if namespace == self._namespace:
                    continue
                # What is mounted elsewhere is not shown to one that has another root.
                root = os.stat(f"/proc/{pid}/root")
                key = (namespace, root.st_dev, root.st_ino)
                if key not in others:
                    others[key] = self._read_other(pid, self._others.get(key))
            except (FileNotFoundError, ProcessLookupError):  # it is gone
                continue
            except OSError:  # one that is not dumpable hides from all but root
                hidden.append(pid)
        self._others = others
        known = self._own.devices.union(*(view.devices for _, view in others.values()))
        return all(self._writes_to(pid) <= known for pid in hidden)

    def _writes_to(self, pid: int) -> set[str]:
        """Name the devices that are mounted where *pid* is: that much nobody hides."""
        try:
            text = read_file(f"/proc/{pid}/mountinfo")
        except (FileNotFoundError, ProcessLookupError):
            return set()
        except OSError:  # another's procfs may hide it altogether
            return {""}
        return {
            mount.device
            for mount in read_mounts(text)
            if mount.kind not in _PASSED and not mount.read_only
        }

    def class_of(self, device: str) -> str:
        """Say what a device's names cost: as on "tmpfs" or as on "disk"."""
        return self._classes.get(device, "disk")

    def classes(self) -> set[str]:
        """Say which classes there are."""
        return set(self._classes.values())

    def close(self) -> None:
        """Let go of the mounts."""
        os.close(self._mounts)

    def _read_own(self) -> None:
        os.lseek(self._mounts, 0, os.SEEK_SET)
        text = b""
        while more := os.read(self._mounts, 65536):
            text += more
        self._own = self._view(text, self._root)

    def _read_other(self, pid: int, before: tuple[bytes, _View] | None) -> tuple[bytes, _View]:
        text = read_file(f"/proc/{pid}/mountinfo")
        root = f"/proc/{pid}/root"
        if before is not None and before[0] == text:
            view = before[1]
            paths = {device: root + os.fsdecode(where) for device, where in view.places.items()}
            return text, view._replace(paths=paths)
        return text, self._view(text, root)

    def _view(self, text: bytes, root: str) -> _View:
        """Find the file systems of a mountinfo, as seen from *root*."""
        mounts = list(read_mounts(text))
        view = _View({}, {}, set(), {mount.device for mount in mounts})
        disks: set[tuple[int, ...]] = set()
        # Of those at one place the last hides the others: what its path says is not theirs.
        on_top = {mount.where: mount for mount in mounts}
        for mount in on_top.values():
            device, kind = mount.device, mount.kind
            if kind in _PASSED or device in view.paths or mount.read_only:
                continue
            if kind.partition(".")[0] in _ANSWERED_ELSEWHERE:
                view.silent.add(kind)
                continue
            path = root + os.fsdecode(mount.where)
            try:
                figures = os.statvfs(path)
            except OSError:  # behind something the box itself could not pass
                continue
            if not figures.f_files:
                view.silent.add(kind)
                continue
            if kind not in _TMPFS:
                # An overlay gives the figures of the disk below it, which may be mounted, too.
                same = (figures.f_files, figures.f_ffree, figures.f_blocks, figures.f_bfree)
                if same in disks:
                    continue
                disks.add(same)
            view.paths[device] = path
            view.places[device] = mount.where
            self._classes[device] = "tmpfs" if kind in _TMPFS else "disk"
        return view


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
