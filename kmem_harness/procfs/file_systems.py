"""Count the inodes that file systems a box can write to have in use. Knows mounts and statvfs.

An inode that was unlinked and is still held by somebody is in use; a name is not, so renaming
changes nothing. Others may use the same file system: only differences mean anything.
"""

from __future__ import annotations

import os
import re
import select
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    #: A path as a process sees it.
    Place = tuple[int, bytes]
    Figures = Callable[[Sequence[Place]], Sequence[tuple[int, ...] | None] | None]

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
#: No more is read of one process's mounts, some thousands, and no more file systems are looked at.
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


class _View(NamedTuple):
    """File systems as one process sees them: where they are in its eyes, by device."""

    places: dict[str, Place]
    #: Types of those that do not say how many inodes are in use.
    silent: set[str]
    #: All that are mounted.
    devices: set[str]


class FileSystems:
    """The file systems that the processes of a box can write to."""

    def __init__(self, pid: int, figures: Figures | None = None) -> None:
        """Look at the mounts of *pid*, which all others start from, and which runs no target yet.

        From then on *figures* looks at places, as :func:`figures_of` does, or says that this takes too
        long: then nothing is known for the moment. Raises: OSError if *pid* is gone.
        """
        self._pid = pid
        self._namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        self._mounts = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._mounts, select.POLLPRI)
        self._own: _View | None = None
        #: Likewise for processes with mounts of their own, as they were looked at last. Nothing is held
        #: open for them: it would keep what they mount. By namespace and root: the text of its
        #: mountinfo, and what that said.
        self._others: dict[tuple[str, str], tuple[bytes, _View]] = {}
        #: By device, those seen at any time.
        self._classes: dict[str, str] = {}
        self._ids: dict[str, int] = {}
        #: Devices that stand for another file system than at the look before the last.
        self.replaced: set[str] = set()
        self._figures: Figures = figures_of
        self._own = self._view(pid, _text_of(self._mounts), at_once=True)
        #: What :meth:`used` would have given at first.
        self.at_first = self.used() or {}
        self._ids.clear()  # as one library tells them; what looks may have another
        if figures is not None:
            self._figures = figures

    @property
    def silent(self) -> set[str]:
        """Types of those that do not say how many inodes are in use."""
        return set().union(*(view.silent for view in self._views()))

    def used(self) -> dict[str, int] | None:
        """Give the inodes in use, or ``None`` if that takes long.

        Shape: by device, for those of :meth:`class_of`.
        """
        if self._own is None or self._changes.poll(0):
            self._own = self._view(self._pid, _text_of(self._mounts))
            if self._own is None:
                return None
        used: dict[str, int] = {}
        self.replaced = set()
        # Of one that several see it is enough to ask once, and their root may be gone by now.
        for view in self._views():
            asked = {device: view.places[device] for device in view.places.keys() - used.keys()}
            found = self._figures(list(asked.values()))
            if found is None:
                return None
            for device, figures in zip(asked, found, strict=True):
                if figures is not None:  # else unmounted since
                    used[device] = figures[0] - figures[1]
                    if self._ids.setdefault(device, figures[4]) != figures[4]:
                        self._ids[device] = figures[4]
                        self.replaced.add(device)
        return used

    def _views(self) -> list[_View]:
        own = [] if self._own is None else [self._own]
        return own + [view for _, view in self._others.values()]

    def see(self, pids: list[int]) -> bool:
        """Look at the mounts of those of *pids* that have some of their own, too.

        False if that may not be seen of one of them.
        """
        others: dict[tuple[str, str], tuple[bytes, _View]] = {}
        hidden: list[int] = []
        for pid in pids:
            try:
                namespace = os.readlink(f"/proc/{pid}/ns/mnt")
                if namespace == self._namespace:
                    continue
                # What is mounted elsewhere is not shown to one that has another root. By its name: to
                # look at it, a file server might have to be asked.
                key = (namespace, os.readlink(f"/proc/{pid}/root"))
                if key not in others:
                    other = self._read_other(pid, self._others.get(key))
                    if other is None:
                        hidden.append(pid)
                    else:
                        others[key] = other
            except (FileNotFoundError, ProcessLookupError):  # it is gone
                continue
            except OSError:  # one that is not dumpable hides from all but root
                hidden.append(pid)
        self._others = others
        known = set().union(*(view.devices for view in self._views()))
        return all(self._writes_to(pid) <= known for pid in hidden)

    def _writes_to(self, pid: int) -> set[str]:
        """Name the devices that are mounted where *pid* is: that much nobody hides."""
        try:
            text = _mountinfo(pid)
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

    def _read_other(
        self, pid: int, before: tuple[bytes, _View] | None
    ) -> tuple[bytes, _View] | None:
        """Look at the mounts of *pid*; ``None`` if that takes long."""
        text = _mountinfo(pid)
        if before is not None and before[0] == text:
            view = before[1]
            places = {device: (pid, where) for device, (_, where) in view.places.items()}
            return text, view._replace(places=places)
        found = self._view(pid, text)
        return None if found is None else (text, found)

    def _view(self, pid: int, text: bytes, *, at_once: bool = False) -> _View | None:
        """Find the file systems of a mountinfo, as *pid* sees them; ``None`` if that takes long.

        With *at_once* those are left out at which a file server would have to be asked.
        """
        # Of those at one place the last hides the others: what its path says is not theirs.
        mounted = list(read_mounts(text))
        on_top = {mount.where: mount for mount in mounted}
        view = _View({}, set(), {mount.device for mount in mounted})
        mounts = _to_look_at(on_top, view.silent, at_once=at_once)
        found = self._figures([(pid, mount.where) for mount in mounts])
        if found is None:
            return None
        disks: set[tuple[int, ...]] = set()
        for mount, figures in zip(mounts, found, strict=True):
            if figures is None:  # behind something the box itself could not pass
                continue
            if not figures[0]:
                view.silent.add(mount.kind)
                continue
            if mount.kind not in _TMPFS:
                # An overlay gives the figures of the disk below it, which may be mounted, too.
                if figures[:4] in disks:
                    continue
                disks.add(figures[:4])
            view.places[mount.device] = pid, mount.where
            self._classes[mount.device] = "tmpfs" if mount.kind in _TMPFS else "disk"
        return view


def _to_look_at(on_top: Mapping[bytes, Mount], silent: set[str], *, at_once: bool) -> list[Mount]:
    """Find the mounts to look at, one of each device; add the types of the others to *silent*."""
    # On the way there, too, somebody else would be asked; if it is the root, then everywhere.
    beyond = tuple(
        where.rstrip(b"/") + b"/"
        for where, mount in on_top.items()
        if _is_answered_elsewhere(mount) and (at_once or where != b"/")
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
    return list(found.values())


def _is_answered_elsewhere(mount: Mount) -> bool:
    return mount.kind.partition(".")[0] in _ANSWERED_ELSEWHERE


def _mountinfo(pid: int) -> bytes:
    fd = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _text_of(fd)
    finally:
        os.close(fd)


def _text_of(mounts: int) -> bytes:
    os.lseek(mounts, 0, os.SEEK_SET)
    text = b""
    while len(text) < _MOST_TEXT and (more := os.read(mounts, 65536)):
        text += more
    return text[: text.rfind(b"\n") + 1]


def figures_of(places: Sequence[Place]) -> list[tuple[int, ...] | None]:
    """Look at file systems where a process sees them; it has to be one that keeps nobody waiting.

    Shape: for each inodes, free ones, blocks, free ones, and which it is; ``None`` where there is none.
    """
    return [_figures_at(b"/proc/%d/root%s" % place) for place in places]


def _figures_at(path: bytes) -> tuple[int, ...] | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_files, found.f_ffree, found.f_blocks, found.f_bfree, found.f_fsid


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
