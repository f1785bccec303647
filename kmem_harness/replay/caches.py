"""What no process holds: dentries and inodes kept until reclaimed, and the files of a tmpfs.

Knows parts, memcgs and mounts; decides nothing about limits. Freed dentries and inodes give
their memory back only after a grace period (fs/dcache.c, fs/inode.c call_rcu), so reclaim has
nothing to show for them at once: that is why the recorded machine kills at a memory limit full
of dentries nobody uses, and has them all back a moment later.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.core.memcg import Memcg
    from kmem_harness.costs.table import Part
    from kmem_harness.replay.books import Books

__all__ = ["Caches"]


class _Mount:
    """A tmpfs: its objects, and the processes whose working directory is in it."""

    def __init__(self) -> None:
        self.objects: Counter[tuple[Memcg, Part]] = Counter()
        self.entered_by: set[int] = set()


class Caches:
    """The objects of one machine's file systems."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._cached: Counter[tuple[Memcg, Part]] = Counter()
        self._pages: Counter[Memcg] = Counter()
        self._mounts = [_Mount()]
        # Unmounted lazily, and still somebody's working directory.
        self._detached: list[_Mount] = []
        self._pinned: dict[int, Counter[tuple[Memcg, Part]]] = {}

    # Keeping --------------------------------------------------------------------------------

    def keep(self, memcg: Memcg, part: Part, *, entered_by: int | None = None) -> None:
        """Keep a cached object.

        :param entered_by: the process that works in it, so that it cannot be reclaimed.
        """
        if entered_by is None:
            self._cached[memcg, part] += 1
        else:
            self._pinned.setdefault(entered_by, Counter())[memcg, part] += 1

    def keep_pages(self, memcg: Memcg, nbytes: int) -> None:
        """Keep user memory of a file system's own pages."""
        if nbytes:
            self._pages[memcg] += nbytes

    def keep_in_tmpfs(self, memcg: Memcg, part: Part, *, entered_by: int | None = None) -> None:
        """Keep an object for as long as the tmpfs it is in."""
        mount = self._mounts[-1]
        mount.objects[memcg, part] += 1
        if entered_by is not None:
            mount.entered_by.add(entered_by)

    def leave(self, pid: int) -> None:
        """Let go of what a process's working directory held, now that it is gone."""
        self._cached += self._pinned.pop(pid, Counter())
        for mount in (*self._mounts, *self._detached):
            mount.entered_by.discard(pid)
        for mount in [each for each in self._detached if not each.entered_by]:
            self._detached.remove(mount)
            self._books.put_off_release(mount.objects)

    # Freeing --------------------------------------------------------------------------------

    def mount(self) -> None:
        """Mount an empty tmpfs over the last one."""
        self._mounts.append(_Mount())

    def unmount(self) -> None:
        """Unmount the topmost tmpfs; it goes once nobody works in it any more."""
        mount = self._mounts.pop()
        if mount.entered_by:
            self._detached.append(mount)
        else:
            self._books.put_off_release(mount.objects)
        if not self._mounts:
            self._mounts.append(_Mount())

    def shrink(self, inside: Callable[[Memcg], bool]) -> None:
        """Free the cached objects charged to these memcgs, after a grace period."""
        late = Counter({key: n for key, n in self._cached.items() if inside(key[0])})
        self._cached -= late
        self._books.put_off_release(late)

    def shrink_at_once(self, inside: Callable[[Memcg], bool], most: int) -> int:
        """Free cached objects up to *most* bytes, grace period included; return the bytes."""
        freed = 0
        for (memcg, part), kept in list(self._cached.items()):
            if not inside(memcg):
                continue
            count = min(kept, max(0, most - freed) // part.nbytes + 1)
            self._cached[memcg, part] -= count
            self._books.uncharge(memcg, part, count)
            freed += count * part.nbytes
        return freed

    def drop_pages(self, inside: Callable[[Memcg], bool]) -> int:
        """Give file systems' pages charged to these memcgs back; return the bytes."""
        freed = 0
        for memcg, nbytes in list(self._pages.items()):
            if inside(memcg):
                del self._pages[memcg]
                memcg.uncharge_user(nbytes)
                freed += nbytes
        return freed
