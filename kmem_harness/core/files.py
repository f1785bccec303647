"""The control files of a memcg: names, modes, and what a read or a write does (section 8).

Knows the files and their errnos; parsing is in ``limit_text``, limits' policy in ``activation``
and ``resize``, tasks in ``tasks``. One write call is one operation (K16).
"""

from __future__ import annotations

import errno
import re
from stat import S_IFDIR, S_IFREG
from typing import TYPE_CHECKING, NamedTuple

from kmem_harness.core import resize, statistics
from kmem_harness.core.errors import kernel_error
from kmem_harness.core.tasks import parse_pid

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.core.memcg import Memcg

__all__ = ["ControlFile", "OpenFile", "find_file", "has", "modes", "modes_in", "names"]

_MOVE_MASK = 3
_MAX_SWAPPINESS = 100
_MAX_AGENT = 4095
_STANDARD_FILES = ("", "1", "2")
_DIRECTORY_MODE = 0o755


class ControlFile(NamedTuple):
    """One file: its mode (K28) and what reading and writing do; ``None`` is EINVAL."""

    mode: int
    read: Callable[[Memcg], str] | None
    write: Callable[[Memcg, str, str], None] | None


class OpenFile:
    """A control file of one memcg, opened: it outlives the directory, as a descriptor does."""

    __slots__ = ("_file", "_memcg", "_name")

    def __init__(self, memcg: Memcg, name: str, file: ControlFile) -> None:
        self._memcg = memcg
        self._name = name
        self._file = file

    def _check_alive(self) -> None:
        if self._memcg.offline:
            raise kernel_error(errno.ENODEV, "the memcg is gone", rule="K29", file=self._name)

    def read(self) -> str:
        """Read the whole file (K25)."""
        self._check_alive()
        if self._file.read is None:
            raise kernel_error(errno.EINVAL, "it cannot be read", rule="K28", file=self._name)
        return self._file.read(self._memcg)

    def write(self, text: str) -> None:
        """Write *text* in one call (K16)."""
        self._check_alive()
        profile = self._memcg.tree.profile
        if profile.ignores_empty_writes:
            if not text:
                return
            if len(text.encode(errors="replace")) > profile.limit_text.max_nbytes:
                why = "longer than one page"
                raise kernel_error(errno.E2BIG, why, rule="K17", file=self._name, value=text)
        if self._file.write is None:
            raise kernel_error(
                errno.EINVAL, "it cannot be written", rule="K28", file=self._name, value=text
            )
        self._file.write(self._memcg, self._name, text)


# Counters -------------------------------------------------------------------------------------


def _kmem(memcg: Memcg) -> ResourceCounter:
    return memcg.kmem


def _tcp(memcg: Memcg) -> ResourceCounter:
    return memcg.tcp


def _memory(memcg: Memcg) -> ResourceCounter:
    return memcg.memory


def _memsw(memcg: Memcg) -> ResourceCounter:
    if memcg.memsw is None:
        why = "swap accounting is off"
        raise kernel_error(errno.EOPNOTSUPP, why, rule="section 8", file="memory.memsw")
    return memcg.memsw


def _parse_limit(memcg: Memcg, name: str, text: str, *, root_may: bool = False) -> int:
    """Check and read a limit in the order of K17: length, root, syntax."""
    syntax = memcg.tree.profile.limit_text
    if memcg.is_root and not root_may and len(text.encode(errors="replace")) <= syntax.max_nbytes:
        raise kernel_error(errno.EINVAL, "the root has no limit", rule="K66", file=name, value=text)
    return syntax.parse(text, name)


def _write_kmem_limit(memcg: Memcg, name: str, text: str) -> None:
    limit = _parse_limit(memcg, name, text)
    memcg.tree.profile.activation.set_kmem_limit(memcg, limit, name)


def _write_tcp_limit(memcg: Memcg, name: str, text: str) -> None:
    limit = _parse_limit(memcg, name, text)
    memcg.tcp.set_limit(limit, file=name)
    # Lifting the limit stops accounting for new sockets; kmem never stops (K100).
    memcg.tcp_accounts = not memcg.tcp.unlimited


def _write_memory_limit(memcg: Memcg, name: str, text: str) -> None:
    resize.set_memory_limit(memcg, _parse_limit(memcg, name, text), name)


def _write_memsw_limit(memcg: Memcg, name: str, text: str) -> None:
    resize.set_memsw_limit(memcg, _memsw(memcg), _parse_limit(memcg, name, text), name)


def _write_soft_limit(memcg: Memcg, name: str, text: str) -> None:
    memcg.memory.soft_limit = _parse_limit(memcg, name, text, root_may=True)


def _read_soft_limit(memcg: Memcg) -> str:
    return f"{memcg.memory.soft_limit}\n"


def _read_memory_usage(memcg: Memcg) -> str:
    # The root's figure comes from page statistics and holds no kernel memory.
    usage = memcg.lru_nbytes if memcg.is_root else memcg.memory.usage
    return f"{usage}\n"


def _counter_files(
    prefix: str,
    pick: Callable[[Memcg], ResourceCounter],
    write_limit: Callable[[Memcg, str, str], None],
    read_usage: Callable[[Memcg], str] | None = None,
) -> dict[str, ControlFile]:
    """Build the four files every counter has."""

    def reset_max(memcg: Memcg, _name: str, _text: str) -> None:
        pick(memcg).reset_max_usage()

    def reset_failcnt(memcg: Memcg, _name: str, _text: str) -> None:
        pick(memcg).reset_failcnt()

    return {
        f"{prefix}.limit_in_bytes": ControlFile(
            0o644, lambda memcg: f"{pick(memcg).limit}\n", write_limit
        ),
        f"{prefix}.usage_in_bytes": ControlFile(
            0o444, read_usage or (lambda memcg: f"{pick(memcg).usage}\n"), None
        ),
        f"{prefix}.max_usage_in_bytes": ControlFile(
            0o644, lambda memcg: f"{pick(memcg).max_usage}\n", reset_max
        ),
        f"{prefix}.failcnt": ControlFile(
            0o644, lambda memcg: f"{pick(memcg).failcnt}\n", reset_failcnt
        ),
    }


# Other files ----------------------------------------------------------------------------------


def _read_slabinfo(memcg: Memcg) -> str:
    if not memcg.tree.profile.slabinfo_needs_accounting:
        return ""
    if not memcg.accounts:
        why = "the memcg does not account"
        raise kernel_error(errno.EIO, why, rule="section 8", file="memory.kmem.slabinfo")
    return "slabinfo - version: 2.1\n"


def _force_empty(memcg: Memcg, name: str, text: str) -> None:
    if memcg.is_root:
        raise kernel_error(errno.EINVAL, "not on the root", rule="K84", file=name, value=text)
    if memcg.tree.profile.force_empty_checks:
        memcg.check_removable()
    resize.force_empty(memcg)


def _read_use_hierarchy(memcg: Memcg) -> str:
    return f"{int(memcg.use_hierarchy)}\n"


def _write_use_hierarchy(memcg: Memcg, name: str, text: str) -> None:
    value = _integer(memcg, name, text)
    if value == int(memcg.use_hierarchy):
        return
    if value not in {0, 1} or (memcg.parent is not None and memcg.parent.use_hierarchy):
        why = "0 or 1, and never under a hierarchical parent"
        raise kernel_error(errno.EINVAL, why, rule="K76", file=name, value=text)
    if memcg.children or memcg.offlining_children:
        raise kernel_error(errno.EBUSY, "it has children", rule="K76", file=name, value=text)
    memcg.use_hierarchy = bool(value)


def _integer(memcg: Memcg, name: str, text: str) -> int:
    return memcg.tree.profile.integer_text.parse(text, name)


def _in_hierarchy(memcg: Memcg) -> bool:
    """Whether older kernels refuse per-memcg settings here: they must not differ in a hierarchy."""
    below = memcg.use_hierarchy and bool(memcg.children)
    return below or (memcg.parent is not None and memcg.parent.use_hierarchy)


def _write_swappiness(memcg: Memcg, name: str, text: str) -> None:
    value = _integer(memcg, name, text)
    older = memcg.tree.profile.hierarchy_shares_settings
    if value > _MAX_SWAPPINESS or (older and (memcg.is_root or _in_hierarchy(memcg))):
        why = "0 to 100, not on the root or in a hierarchy of older kernels"
        raise kernel_error(errno.EINVAL, why, rule="section 8", file=name, value=text)
    memcg.swappiness = value


def _write_oom_control(memcg: Memcg, name: str, text: str) -> None:
    value = _integer(memcg, name, text)
    shared = memcg.tree.profile.hierarchy_shares_settings and _in_hierarchy(memcg)
    if memcg.is_root or value not in {0, 1} or shared:
        why = "0 or 1, not on the root, nor in a hierarchy of older kernels"
        raise kernel_error(errno.EINVAL, why, rule="section 8", file=name, value=text)
    memcg.oom_kill_disable = bool(value)


def _write_move_charge(memcg: Memcg, name: str, text: str) -> None:
    value = _integer(memcg, name, text)
    if value & ~_MOVE_MASK:
        raise kernel_error(errno.EINVAL, "0 to 3", rule="K83", file=name, value=text)
    memcg.set_setting(name, value)


def _setting(name: str) -> Callable[[Memcg], str]:
    return lambda memcg: f"{memcg.setting(name)}\n"


def _write_flag(memcg: Memcg, name: str, text: str) -> None:
    memcg.set_setting(name, int(_integer(memcg, name, text) != 0))


def _read_release_agent(memcg: Memcg) -> str:
    return f"{memcg.tree.release_agent}\n"


def _write_release_agent(memcg: Memcg, name: str, text: str) -> None:
    """Keep the path of an agent that nobody here would start."""
    if len(text.encode(errors="replace")) > _MAX_AGENT:
        why = "longer than a path can be"
        raise kernel_error(errno.E2BIG, why, rule="K17", file=name, value=text)
    memcg.tree.release_agent = text.partition("\0")[0].strip(" \t\n\v\f\r")


def _read_procs(memcg: Memcg) -> str:
    return "".join(f"{pid}\n" for pid in memcg.tree.tasks.pids_in(memcg))


def _read_tasks(memcg: Memcg) -> str:
    return "".join(f"{tid}\n" for tid in sorted(memcg.tasks))


def _write_procs(memcg: Memcg, name: str, text: str) -> None:
    memcg.tree.tasks.move_process(parse_pid(text, name), memcg, file=name)


def _write_tasks(memcg: Memcg, name: str, text: str) -> None:
    memcg.tree.tasks.move_thread(parse_pid(text, name), memcg, file=name)


def _write_event_control(_memcg: Memcg, name: str, text: str) -> None:
    """Refuse: nobody's descriptors are ours to watch, and kmem has no thresholds (K101)."""
    match = re.match(r"([0-9]*) ([0-9]*)( |$)", text.strip(" \t\n\v\f\r"))
    is_open = match is not None and match[1].lstrip("0") in _STANDARD_FILES
    # Whoever writes has its standard files open, and none of them is an eventfd.
    number = errno.EBADF if match is not None and not is_open else errno.EINVAL
    raise kernel_error(number, "no such descriptors", rule="K101", file=name, value=text)


_FILES: dict[str, ControlFile] = {
    **_counter_files("memory.kmem", _kmem, _write_kmem_limit),
    **_counter_files("memory.kmem.tcp", _tcp, _write_tcp_limit),
    **_counter_files("memory", _memory, _write_memory_limit, _read_memory_usage),
    **_counter_files("memory.memsw", _memsw, _write_memsw_limit),
    "memory.kmem.slabinfo": ControlFile(0o444, _read_slabinfo, None),
    "memory.soft_limit_in_bytes": ControlFile(0o644, _read_soft_limit, _write_soft_limit),
    "memory.stat": ControlFile(0o444, statistics.memory_stat, None),
    "memory.numa_stat": ControlFile(0o444, statistics.numa_stat, None),
    "memory.force_empty": ControlFile(0o200, None, _force_empty),
    "memory.use_hierarchy": ControlFile(0o644, _read_use_hierarchy, _write_use_hierarchy),
    "memory.oom_control": ControlFile(0o644, statistics.oom_control, _write_oom_control),
    "memory.swappiness": ControlFile(
        0o644, lambda memcg: f"{memcg.swappiness}\n", _write_swappiness
    ),
    "memory.move_charge_at_immigrate": ControlFile(
        0o644, _setting("memory.move_charge_at_immigrate"), _write_move_charge
    ),
    "memory.pressure_level": ControlFile(0o000, None, None),
    "cgroup.procs": ControlFile(0o644, _read_procs, _write_procs),
    "tasks": ControlFile(0o644, _read_tasks, _write_tasks),
    "cgroup.clone_children": ControlFile(0o644, _setting("cgroup.clone_children"), _write_flag),
    "notify_on_release": ControlFile(0o644, _setting("notify_on_release"), _write_flag),
    "cgroup.event_control": ControlFile(0o222, None, _write_event_control),
}
_ROOT_FILES: dict[str, ControlFile] = {
    "cgroup.sane_behavior": ControlFile(0o444, lambda _memcg: "0\n", None),
    "release_agent": ControlFile(0o644, _read_release_agent, _write_release_agent),
}


def _is_present(memcg: Memcg, name: str) -> bool:
    tree = memcg.tree
    if name in tree.profile.absent_files:
        return False
    if name.startswith("memory.memsw."):
        return tree.swap_accounting or tree.profile.memsw_files_without_swap
    return True


def _available(memcg: Memcg) -> dict[str, ControlFile]:
    return {**_FILES, **_ROOT_FILES} if memcg.is_root else _FILES


def names(memcg: Memcg) -> list[str]:
    """Name the control files of *memcg*, sorted."""
    return sorted(name for name in _available(memcg) if _is_present(memcg, name))


def has(memcg: Memcg, name: str) -> bool:
    """Whether *memcg* has a control file of that name."""
    return name in _available(memcg) and _is_present(memcg, name)


def modes(memcg: Memcg) -> dict[str, int]:
    """Give the permission bits of every control file of *memcg* (K28)."""
    available = _available(memcg)
    return {name: available[name].mode for name in names(memcg)}


def modes_in(memcg: Memcg) -> dict[str, int]:
    """Give the mode of each entry of a memcg's directory, type bits included, by name."""
    found = {name: S_IFREG | mode for name, mode in modes(memcg).items()}
    found.update(dict.fromkeys(memcg.children, S_IFDIR | _DIRECTORY_MODE))
    return dict(sorted(found.items()))


def find_file(memcg: Memcg, name: str) -> OpenFile:
    """Open a control file.

    Raises: OSError ENOENT, EISDIR.
    """
    if name in memcg.children:
        raise kernel_error(errno.EISDIR, "a directory", rule="K78", file=name)
    if not has(memcg, name):
        raise kernel_error(errno.ENOENT, "no such control file", rule="section 8", file=name)
    return OpenFile(memcg, name, _available(memcg)[name])
