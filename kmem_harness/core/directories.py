"""Making, removing and renaming memcg directories, with the errnos a cgroupfs gives.

Knows names and paths; what a new or removed memcg means for charges is in ``memcg``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kmem_harness.core import files
from kmem_harness.core.errors import kernel_error
from kmem_harness.core.memcg import Memcg

if TYPE_CHECKING:
    from kmem_harness.core.tree import MemcgTree

__all__ = ["find", "make", "remove", "rename"]

_RULE = "K78"
_INHERITED = ("cgroup.clone_children", "notify_on_release")


_DOTS = frozenset({".", ".."})


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def find(tree: MemcgTree, path: str) -> Memcg:
    """Find a memcg by path."""
    memcg = tree.root
    for name in _parts(path):
        if name in _DOTS:
            memcg = memcg.parent or memcg if name == ".." else memcg
            continue
        child = memcg.children.get(name)
        if child is None:
            if files.has(memcg, name):
                raise kernel_error(errno.ENOTDIR, "not a directory", rule=_RULE, file=path)
            raise kernel_error(errno.ENOENT, "no such memcg", rule=_RULE, file=path)
        memcg = child
    return memcg


def _split(tree: MemcgTree, path: str, dots: dict[str, int]) -> tuple[Memcg, str]:
    """Find the directory *path* is in, and the last name.

    :param dots: the errno for a path that ends in ``.`` or ``..``, or is the root (``/``).
    """
    parts = _parts(path)
    last = parts[-1] if parts else "/"
    parent = find(tree, "/".join(parts[:-1]))
    if last in dots:
        raise kernel_error(dots[last], "not the name of a child", rule=_RULE, file=path)
    return parent, last


def _check_length(tree: MemcgTree, name: str, path: str) -> None:
    most = tree.profile.name_max
    if len(name.encode(errors="replace")) > most:
        why = f"a name has at most {most} bytes"
        raise kernel_error(errno.ENAMETOOLONG, why, rule=_RULE, file=path)


def _check_newline(name: str, path: str) -> None:
    if "\n" in name:
        raise kernel_error(errno.EINVAL, "a name has no newline", rule=_RULE, file=path)


def make(tree: MemcgTree, path: str) -> Memcg:
    """Make a memcg; see :meth:`MemcgTree.make`."""
    parent, name = _split(tree, path, dict.fromkeys((".", "..", "/"), errno.EEXIST))
    _check_length(tree, name, path)
    if name in parent.children or files.has(parent, name):
        raise kernel_error(errno.EEXIST, "it exists", rule=_RULE, file=path)
    _check_newline(name, path)
    self_nbytes = tree.charge_for_child(parent, path)
    memcg = Memcg(tree, name, parent)
    memcg.self_nbytes = self_nbytes
    for setting in _INHERITED:
        if parent.setting(setting):
            memcg.set_setting(setting, parent.setting(setting))
    above = memcg.pinned_parent
    if above is not None:
        above.refs += 1
    tree.profile.activation.born(memcg, parent)
    parent.children[name] = memcg
    return memcg


def remove(tree: MemcgTree, path: str) -> None:
    """Remove a memcg; see :meth:`MemcgTree.remove`."""
    dots = {".": errno.EINVAL, "..": errno.ENOTEMPTY, "/": errno.EBUSY}
    parent, name = _split(tree, path, dots)
    memcg = parent.children.get(name)
    if memcg is None:
        if files.has(parent, name):
            raise kernel_error(errno.ENOTDIR, "not a directory", rule=_RULE, file=path)
        raise kernel_error(errno.ENOENT, "no such memcg", rule=_RULE, file=path)
    memcg.check_removable()
    del parent.children[name]
    memcg.offline = True
    if not tree.profile.offlines_later:
        memcg.go_offline()
        return
    parent.offlining_children += 1

    def go_offline() -> None:
        tree.object_stock.release(memcg)
        memcg.go_offline()

    tree.deferred.put_off("offline", go_offline)


def rename(tree: MemcgTree, path: str, new_path: str) -> None:
    """Rename a memcg; see :meth:`MemcgTree.rename`."""
    dots = dict.fromkeys((".", "..", "/"), errno.EBUSY)
    parent, name = _split(tree, path, dots)
    new_parent, new_name = _split(tree, new_path, dots)
    memcg = parent.children.get(name)
    if memcg is None:
        _refuse_to_rename_a_file(parent, name, path, new_parent, new_name, new_path)
        return
    there = new_parent.children.get(new_name)
    if _is_above(memcg, new_parent):
        raise kernel_error(errno.EINVAL, "it would be inside itself", rule=_RULE, file=new_path)
    if there is not None and _is_above(there, parent):
        raise kernel_error(errno.ENOTEMPTY, "it is inside that", rule=_RULE, file=new_path)
    if memcg is there:
        return
    _check_length(tree, new_name, new_path)
    if files.has(new_parent, new_name):
        raise kernel_error(errno.ENOTDIR, "a control file is there", rule=_RULE, file=new_path)
    _check_newline(new_name, new_path)
    if parent is not new_parent:
        raise kernel_error(errno.EIO, "the parent must stay", rule=_RULE, file=new_path)
    if new_name in parent.children:
        raise kernel_error(errno.EEXIST, "it exists", rule=_RULE, file=new_path)
    del parent.children[name]
    memcg.name = new_name
    parent.children[new_name] = memcg


def _refuse_to_rename_a_file(
    parent: Memcg, name: str, path: str, new_parent: Memcg, new_name: str, new_path: str
) -> None:
    """Say what is wrong with a source that is no directory; a file may keep its name."""
    if not files.has(parent, name):
        raise kernel_error(errno.ENOENT, "no such memcg", rule=_RULE, file=path)
    if (parent, name) == (new_parent, new_name):
        return
    if new_name in new_parent.children:
        raise kernel_error(errno.EISDIR, "a directory is there", rule=_RULE, file=new_path)
    raise kernel_error(errno.ENOTDIR, "only directories are renamed", rule=_RULE, file=path)


def _is_above(memcg: Memcg, other: Memcg) -> bool:
    at: Memcg | None = other
    while at is not None:
        if at is memcg:
            return True
        at = at.parent
    return False
