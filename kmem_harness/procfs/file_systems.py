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
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Figures = Callable[[Sequence[bytes]], Sequence[tuple[int, ...] | None] | None]

__all__ = ["FileSystems", "Mount", "figures_of", "read_mounts"]

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
#: No more is read of the mounts, some thousands, and no more file systems are looked at.
_MOST_TEXT = 1 << 19
_MOST_SYSTEMS = 256
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

    def __init__(self, pid: int, figures: Figures | None = None) -> None:
        """Look at the mounts of *pid*, which runs nothing of a target's yet.

        From then on *figures* looks at each path, as :func:`figures_of` does, or says that this takes
        too long: then nothing is known for the moment. Raises: OSError if *pid* is gone.
        """
        self._namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        self._mounts = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._mounts, select.POLLPRI)
        #: Path and class ("tmpfs" or "disk") by device.
        self._systems: dict[str, tuple[bytes, str]] = {}
        self._is_known = False
        #: Types of those that do not say how many inodes are in use.
        self.silent: set[str] = set()
        self._pid = pid
        self._figures = figures
        #: What :meth:`used` would have given at first.
        self.at_first = self._read_mounts(at_once=True) or {}

    def used(self) -> dict[str, int] | None:
        """Give the inodes in use, or ``None`` if that takes long.

        Shape: by device, for those of :meth:`class_of`.
        """
        if self._changes.poll(0) or not self._is_known:
            return self._read_mounts()
        found = self._look([path for path, _ in self._systems.values()])
        if found is None:
            return None
        return {
            device: figures[0] - figures[1]
            for device, figures in zip(self._systems, found, strict=True)
            if figures is not None  # else unmounted since
        }

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

    def _look(self, paths: Sequence[bytes]) -> Sequence[tuple[int, ...] | None] | None:
        return figures_of(self._pid, paths) if self._figures is None else self._figures(paths)

    def _read_mounts(self, *, at_once: bool = False) -> dict[str, int] | None:
        """Find the file systems that there are now, and what :meth:`used` gives of them."""
        # Of those at one place the last hides the others: what its path says is not theirs.
        on_top = {mount.where: mount for mount in read_mounts(self._text())}
        mounts, silent = _sorted_out(on_top)
        elsewhere = b"/" in on_top and _is_answered_elsewhere(on_top[b"/"])
        paths = [mount.where for mount in mounts]
        found = figures_of(self._pid, paths) if at_once and not elsewhere else self._look(paths)
        self._is_known = found is not None
        if found is None:
            return None
        used: dict[str, int] = {}
        systems: dict[str, tuple[bytes, str]] = {}
        disks: set[tuple[int, ...]] = set()
        for mount, figures in zip(mounts, found, strict=True):
            if figures is None:  # behind something the box itself could not pass
                continue
            if not figures[0]:
                silent.add(mount.kind)
                continue
            is_disk = mount.kind not in _TMPFS
            # An overlay gives the figures of the disk below it, which may be mounted, too.
            if not is_disk or figures not in disks:
                systems[mount.device] = (mount.where, "disk" if is_disk else "tmpfs")
                used[mount.device] = figures[0] - figures[1]
            if is_disk:
                disks.add(figures)
        self._systems = systems
        self.silent = silent
        return used

    def _text(self) -> bytes:
        os.lseek(self._mounts, 0, os.SEEK_SET)
        text = b""
        while len(text) < _MOST_TEXT and (more := os.read(self._mounts, 65536)):
            text += more
        return text[: text.rfind(b"\n") + 1]


def _sorted_out(on_top: Mapping[bytes, Mount]) -> tuple[list[Mount], set[str]]:
    """Find the mounts to look at, one of each device, and the types of those that say nothing."""
    silent: set[str] = set()
    # On the way there, too, somebody else would be asked; if it is the root, then everywhere.
    beyond = tuple(
        where + b"/"
        for where, mount in on_top.items()
        if _is_answered_elsewhere(mount) and where != b"/"
    )
    found: dict[str, Mount] = {}
    for where, mount in on_top.items():
        if mount.kind in _PASSED or mount.device in found or mount.read_only:
            continue
        if _is_answered_elsewhere(mount) or where.startswith(beyond):
            silent.add(mount.kind)
        elif len(found) < _MOST_SYSTEMS:
            found[mount.device] = mount
        else:
            silent.add("mounts beyond the first hundreds")
    return list(found.values()), silent


def _is_answered_elsewhere(mount: Mount) -> bool:
    return mount.kind.partition(".")[0] in _ANSWERED_ELSEWHERE


def figures_of(pid: int, paths: Sequence[bytes]) -> list[tuple[int, ...] | None]:
    """Look at file systems where *pid* sees them; it has to be one that keeps nobody waiting.

    Shape: for each inodes, free ones, blocks, free ones; ``None`` where there is none.
    """
    return [_figures_at(b"/proc/%d/root%s" % (pid, path)) for path in paths]


def _figures_at(path: bytes) -> tuple[int, ...] | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_files, found.f_ffree, found.f_blocks, found.f_bfree


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
