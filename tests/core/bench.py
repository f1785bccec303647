"""A small laboratory in the words of the vectors: groups, forks, and (usage, max, failcnt)."""

from __future__ import annotations

import errno

from kmem_harness.core.gfp import GFP_KERNEL, Gfp, Situation
from kmem_harness.core.pages import PageAllocator
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree

PAGE = 4096
STACK = 8192
MIB = 1 << 20
NORETRY = GFP_KERNEL | Gfp.NORETRY
KMEM = "memory.kmem.limit_in_bytes"
USER = "memory.limit_in_bytes"


class Lab:
    """One CPU, stock on, swap accounting off, non-hierarchical root, as section 11 assumes."""

    def __init__(self, profile: str, **options):
        self.profile = profile_named(profile)
        self.tree = MemcgTree(self.profile, **options)
        self.pages = PageAllocator()

    def group(self, path="g", *, k=None, u=None, hierarchy=False):
        memcg = self.tree.make(path)
        if hierarchy:
            self.write(path, "memory.use_hierarchy", "1")
        if k is not None:
            self.write(path, KMEM, k)
        if u is not None:
            self.write(path, USER, u)
        return memcg

    def write(self, path, file, text):
        self.tree.write(path, file, str(text))

    def limit(self, path, text):
        self.write(path, KMEM, text)

    def read(self, path, file=KMEM):
        return int(self.tree.read(path, file))

    def fork(self, memcg, gfp=GFP_KERNEL, situation=Situation.NORMAL):
        return self.pages.allocate(memcg, 1, gfp, situation)

    def forks(self, memcg, count, gfp=GFP_KERNEL):
        return [self.fork(memcg, gfp) for _ in range(count)]

    def order(self, memcg, order, gfp=GFP_KERNEL, situation=Situation.NORMAL):
        return self.pages.allocate(memcg, order, gfp, situation)

    @property
    def stocked_pages(self):
        return self.tree.cpu_stock.nbytes // PAGE


def k(memcg):
    return memcg.kmem.usage, memcg.kmem.max_usage, memcg.kmem.failcnt


def r(memcg):
    return memcg.memory.usage, memcg.memory.max_usage, memcg.memory.failcnt


class _Refused:
    def __init__(self, number):
        self.number = number

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _trace):
        assert isinstance(error, OSError), f"no OSError, but {error!r}"
        assert error.errno == self.number, errno.errorcode.get(error.errno, error.errno)
        return True


def fails(number):
    """Expect an OSError with exactly this errno."""
    return _Refused(number)
