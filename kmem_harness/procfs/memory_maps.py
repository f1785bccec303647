"""Look at the address spaces of a box: mappings, page tables, tables of descriptors.

Knows /proc/PID/maps and status; knows no prices. What a process had is remembered as long as its
faults and size say that it has not changed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from kmem_harness.procfs.descriptors import memfd_devices
from kmem_harness.procfs.processes import blocks_of, read_file, stat_of
from kmem_harness.procfs.steps import result_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kmem_harness.procfs.processes import Stat
    from kmem_harness.procfs.steps import Steps

__all__ = ["AddressSpaces", "Size", "Sum", "measure", "size_of", "table_of"]

#: VmPTE counts whole pages of this host, 4, 16 or 64 kB.
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024
_TABLE_STEP = 256
#: Of a mapping: where it starts, its device and inode, and the name if it is a memfd's.
_MAPPED_FILE = re.compile(rb"^([0-9a-f]+)-\S+ \S+ \S+ (\S+) ([1-9]\d*) +(/memfd:)?", re.MULTILINE)
_PTE = re.compile(rb"^VmPTE:\s+(\d+) kB", re.MULTILINE)
_TGID = re.compile(rb"^Tgid:\s+(\d+)", re.MULTILINE)
_AIO = b" /[aio] (deleted)\n"
_FDSIZE = re.compile(rb"^FDSize:\s+(\d+)", re.MULTILINE)


class Size(NamedTuple):
    """What one address space holds.

    ``files``: mapped files that may be open nowhere else, as (start, device, inode);
    ``memfds`` likewise, by inode. ``hidden``: mappings, where none of them may be looked at.
    ``table``: units of 256 descriptors that there is room for.
    """

    mappings: int = 0
    page_tables: int = 0
    files: frozenset[tuple[bytes, ...]] = frozenset()
    memfds: frozenset[str] = frozenset()
    hidden: int = 0
    aio_contexts: int = 0
    table: int = 0


class Sum:
    """What all address spaces of a box hold, beyond what each task's price includes."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.forked = 0
        self.executed = 0
        self.kinds: Counter[str] = Counter()
        self.files: set[tuple[bytes, ...]] = set()
        self.memfds: set[str] = set()
        #: Mappings, by estimate, in address spaces that may not be looked at.
        self.hidden = 0
        self.aio_contexts = 0
        self.complete = True

    def add(self, size: Size, excess: dict[str, int]) -> None:
        """Add one address space, with what it has beyond its task's price."""
        self.files |= size.files
        self.memfds |= size.memfds
        self.aio_contexts += size.aio_contexts
        for kind, nr in excess.items():
            self.kinds[kind] += nr


class AddressSpaces:
    """Sum up the address spaces of a box, again and again."""

    def __init__(self, included: dict[str, int]) -> None:
        """Leave out, for each process, as many of each kind as *included* says."""
        self._included = included
        self._known: dict[int, tuple[tuple[int, ...], Size]] = {}
        self._most_mappings = included.get("vma", 0)
        #: How many mappings calls may have made, ever.
        self.mapped = 0
        #: Of processes that may not be looked at: their pages, and that number, when they were found.
        self._hidden: dict[int, tuple[int, int]] = {}
        #: Processes whose table of descriptors has grown: it never shrinks, whatever is closed.
        self.grown: set[int] = set()

    def sum(self, pids: Iterable[int]) -> Steps[Sum]:
        """Look at *pids*; a process that shares its parent's memory counts like any other."""
        total = Sum()
        known: dict[int, tuple[tuple[int, ...], Size]] = {}
        for pid in pids:
            yield
            stat = stat_of(pid)
            if stat is None or stat.has_ended:
                continue
            if stat.forked:
                total.forked += 1
            else:
                total.executed += 1
            try:
                size = yield from self._size(pid, stat)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError:
                total.complete = False
                continue
            known[pid] = (stat.same_memory, size)
            total.hidden += size.hidden
            if size.table > 1:  # such as one that was forked
                self.grown.add(pid)
            total.add(size, self.excess(size))
        self._known = known
        self._hidden = {pid: first for pid, first in self._hidden.items() if pid in known}
        for pid in list(self.grown):
            units = _table_units(pid)
            yield
            if units:
                total.kinds["descriptor-table"] += units - self._included.get("descriptor-table", 0)
            else:
                self.grown.discard(pid)
        return total

    def _size(self, pid: int, stat: Stat | None = None) -> Steps[Size]:
        """Look at an address space, unless *stat* says it is as before. Raises: OSError.

        Where that may not be done page tables are told, and mappings are not: then there are taken
        to be as many as were ever seen in one, and what it may have made since: each takes a page.
        """
        before = self._known.get(pid)
        if stat is not None and before is not None and before[0] == stat.same_memory:
            return before[1]
        try:
            size = yield from measure(pid)
        except PermissionError:
            if stat is None:
                stat = stat_of(pid)
            return self._estimate(pid, 0 if stat is None else stat.size // (_PAGE_KB * 1024))
        self._most_mappings = max(self._most_mappings, size.mappings)
        return size

    def _estimate(self, pid: int, pages: int) -> Size:
        first_pages, first_mapped = self._hidden.setdefault(pid, (pages, self.mapped))
        most = self._most_mappings
        most += max(min(pages - first_pages, self.mapped - first_mapped), 0)
        return Size(mappings=most, page_tables=_page_tables(pid), hidden=most)

    def excess(self, size: Size) -> dict[str, int]:
        """Give what *size* has of each kind beyond what a task's price includes."""
        held = {"vma": size.mappings, "page-table": size.page_tables}
        return {
            kind: max(nr - self._included[kind], 0)
            for kind, nr in held.items()
            if kind in self._included
        }

    def excess_of(self, pid: int) -> Steps[dict[str, int]]:
        """Look at one process: what its child will have, too."""
        try:
            size = yield from self._size(pid)
        except OSError:
            return {}
        table = size.table - max(self._included.get("descriptor-table", 0), 1)
        return self.excess(size) | {"descriptor-table": max(table, 0)}


def size_of(pid: int) -> Size:
    """Look at one address space. Raises: OSError if it is gone or not ours to look at."""
    return result_of(measure(pid))


def measure(pid: int) -> Steps[Size]:
    """Look at one address space in steps. Raises: OSError if it is gone or not ours to look at."""
    files: set[tuple[bytes, ...]] = set()
    memfds: set[str] = set()
    mappings = aio_contexts = 0
    for lines in blocks_of(f"/proc/{pid}/maps"):
        mappings += lines.count(b"\n")
        aio_contexts += lines.count(_AIO)
        _add_files(lines, files, memfds)
        yield
    return Size(
        mappings=mappings,
        page_tables=_page_tables(pid),
        files=frozenset(files),
        memfds=frozenset(memfds),
        aio_contexts=aio_contexts,
        table=_units(read_file(f"/proc/{pid}/status")),
    )


def _add_files(maps: bytes, files: set[tuple[bytes, ...]], memfds: set[str]) -> None:
    """Add what lines of a maps file say is mapped."""
    for start, device, inode, memfd in _MAPPED_FILE.findall(maps):
        number = os.makedev(*(int(part, 16) for part in device.split(b":"))) if memfd else 0
        if number in memfd_devices():
            memfds.add(f"memfd:{number}:{inode.decode('ascii')}")
        else:
            files.add((start, device, inode))


def _page_tables(pid: int) -> int:
    """Count page tables, which everybody may know. Raises: OSError if *pid* is gone."""
    entries = _PTE.search(read_file(f"/proc/{pid}/status"))
    # The top level is not part of the figure.
    return int(entries[1]) // _PAGE_KB + 1 if entries else 0


def table_of(tid: int, wanted: int) -> tuple[int, int]:
    """Say what table *tid* would get to hold descriptor *wanted*, and whose it is.

    Shape: (units of 256, pid); 0 units if the table does hold it, or the task is gone.
    Source: fs/file.c alloc_fdtable (v5.10): the next power of two, in units of 128.
    """
    try:
        status = read_file(f"/proc/{tid}/status")
    except OSError:
        return 0, 0
    has, tgid = _FDSIZE.search(status), _TGID.search(status)
    if has is None or tgid is None or wanted < int(has[1]):
        return 0, 0
    size = 128
    while size <= wanted:
        size *= 2
    return -(-size // _TABLE_STEP), int(tgid[1])


def _table_units(pid: int) -> int:
    try:
        return _units(read_file(f"/proc/{pid}/status"))
    except OSError:
        return 0


def _units(status: bytes) -> int:
    has = _FDSIZE.search(status)
    return -(-int(has[1]) // _TABLE_STEP) if has else 0
