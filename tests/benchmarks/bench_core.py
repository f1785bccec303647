"""Time the core: one charge through three levels, and a hundred thousand memcgs.

``python -m tests.benchmarks.bench_core``; exits 1 if a figure misses its target. Processor time,
so that a busy machine shows in it as little as possible.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
import tracemalloc

from kmem_harness.core.profiles import profile_named
from kmem_harness.core.releases import PROFILE_NAMES
from kmem_harness.core.tree import MemcgTree

CHARGE_TARGET_US = 1.0
MEMCG_TARGET_BYTES = 1500
GROWTH_TARGET = 2.0
CALLS, ROUNDS = 2_000, 301
REPEATS = 3
FEW, MANY = 1_000, 100_000


def charge_us(kernel: str) -> float:
    """Measure the median of one try_charge through three levels, both counters."""
    tree = MemcgTree(profile_named(kernel), stock=False, use_hierarchy=True)
    tree.make("/a")
    tree.write("/a", "memory.kmem.limit_in_bytes", "1G")
    tree.make("/a/b")
    memcg = tree.make("/a/b/c")
    try_charge = memcg.try_charge
    rounds = []
    for _ in range(ROUNDS):
        started = time.thread_time_ns()
        for _ in range(CALLS):
            try_charge(1)
        rounds.append((time.thread_time_ns() - started) / CALLS / 1000)
        memcg.uncharge(CALLS)
    return statistics.median(rounds)


def lives_us(count: int) -> dict[str, float]:
    """Measure making, charging and removing *count* memcgs side by side, each per memcg.

    Without Python's collector, whose full passes look at everything alive in the process.
    """
    tree = MemcgTree(profile_named("5.10"), stock=False, use_hierarchy=True)
    tree.make("/slice")
    paths = [f"/slice/{number}" for number in range(count)]
    memcgs = []
    times = {}

    def measure(name, work):
        started = time.thread_time()
        work()
        times[name] = (time.thread_time() - started) / count * 1e6

    def charge_all():
        for memcg in memcgs:
            memcg.try_charge(8192)

    def uncharge_all():
        for memcg in memcgs:
            memcg.uncharge(8192)

    gc.collect()
    gc.disable()
    measure("make", lambda: memcgs.extend(map(tree.make, paths)))
    measure("charge", charge_all)
    measure("uncharge", uncharge_all)
    measure("remove", lambda: [tree.remove(path) for path in paths])
    gc.enable()
    return times


def best_lives_us(count: int, repeats: int) -> dict[str, float]:
    """Measure several times and keep the least of each: the rest is other people's noise."""
    runs = [lives_us(count) for _ in range(repeats)]
    return {name: min(run[name] for run in runs) for name in runs[0]}


def memcg_bytes() -> float:
    """Measure the memory of one charged memcg among many, its name and directory entry included."""
    tree = MemcgTree(profile_named("5.10"), stock=False, use_hierarchy=True)
    tree.make("/slice")
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(MANY):
        tree.make(f"/slice/{number}").try_charge(8192)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / MANY


def main() -> int:
    missed = 0
    for kernel in PROFILE_NAMES:
        took = charge_us(kernel)
        missed += took > CHARGE_TARGET_US
        print(f"try_charge, 3 levels, {kernel:5} {took:8.2f} us   target {CHARGE_TARGET_US}")
    few, many = best_lives_us(FEW, REPEATS * 10), best_lives_us(MANY, REPEATS)
    for name in few:
        growth = many[name] / few[name]
        missed += growth > GROWTH_TARGET
        print(
            f"{name:9} {few[name]:6.2f} us among {FEW}, {many[name]:6.2f} us among {MANY}"
            f"   x{growth:.2f}, target x{GROWTH_TARGET}"
        )
    each = memcg_bytes()
    missed += each > MEMCG_TARGET_BYTES
    print(f"one charged memcg among {MANY}: {each:.0f} bytes   target {MEMCG_TARGET_BYTES}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
