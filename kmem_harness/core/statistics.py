"""The files that only report: memory.stat, memory.numa_stat, memory.oom_control.

Knows counters; changes nothing. Kernel memory has no line in memory.stat (section 8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.core.limit_text import PAGE

if TYPE_CHECKING:
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.core.memcg import Memcg

__all__ = ["memory_stat", "numa_stat", "oom_control"]


_STATS = ("cache", "rss", "rss_huge", "shmem", "mapped_file", "dirty", "writeback", "swap")
_EVENTS = ("pgpgin", "pgpgout", "pgfault", "pgmajfault")
_LISTS = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")


def _least_limit(counter: ResourceCounter) -> int:
    """Find the limit that really binds: the least one along the path."""
    least = counter.limit
    above = counter.parent
    while above is not None:
        least = min(least, above.limit)
        above = above.parent
    return least


def memory_stat(memcg: Memcg) -> str:
    """Report user memory, all of it as page cache, and the limits that really bind."""
    names = [*_STATS, *_EVENTS, *_LISTS]
    if memcg.memsw is None:
        names.remove("swap")
    limits = f"hierarchical_memory_limit {_least_limit(memcg.memory)}\n"
    if memcg.memsw is not None:
        limits += f"hierarchical_memsw_limit {_least_limit(memcg.memsw)}\n"
    total = sum(each.lru_nbytes for each in memcg.subtree())
    return _lines(names, memcg.lru_nbytes) + limits + _lines(names, total, "total_")


def _lines(names: list[str], cached: int, prefix: str = "") -> str:
    known = {"cache": cached, "active_file": cached}
    return "".join(f"{prefix}{name} {known.get(name, 0)}\n" for name in names)


def numa_stat(memcg: Memcg) -> str:
    """Report user pages of the one node there is."""
    text = ""
    total = sum(each.lru_nbytes for each in memcg.subtree())
    for prefix, nbytes in (("", memcg.lru_nbytes), ("hierarchical_", total)):
        nr_pages = nbytes // PAGE
        lines = (("total", nr_pages), ("file", nr_pages), ("anon", 0), ("unevictable", 0))
        text += "".join(f"{prefix}{name}={number} N0={number}\n" for name, number in lines)
    return text


def oom_control(memcg: Memcg) -> str:
    """Report whether the OOM killer is off, and from 4.13 on how often it killed."""
    waits = int(memcg.under_oom > 0)
    text = f"oom_kill_disable {int(memcg.oom_kill_disable)}\nunder_oom {waits}\n"
    if memcg.tree.profile.oom_control_counts_kills:
        text += f"oom_kill {memcg.oom_kills}\n"
    return text
