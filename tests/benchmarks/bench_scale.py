"""How it grows: boxes at once, tasks in a box, levels of memcgs, objects in the books.

``python -m tests.benchmarks.bench_scale [--boxes N...] [--tasks N...] [--calls N]
[--scale-json FILE]``.
What is promised of growth is said beside the figures, with whether it was reached.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kmem_harness import Harness
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from tests.benchmarks import show
from tests.benchmarks.measure import processor_seconds
from tests.support.programs import Programs, find_compiler, why_no_compiler

BOXES, TASKS, CALLS = (1, 8, 64, 512), (10, 1_000), 100_000
DEPTHS = (1, 2, 4, 8, 16)
OBJECTS = 1_000_000
_FIGURES = re.compile(r"(ns|p50|p99|p999|from|to)=([0-9.]+)")
#: Forks that are refused, and the calls of another box that are timed beside them.
_REFUSED, _BESIDE = 1_000, 2_000


def _resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def boxes(program: str, count: int, calls: int) -> dict[str, Any]:
    """Run *count* boxes at once that share *calls* calls; look at calls and at the controller."""
    with Harness("5.10") as harness, ExitStack() as stack:
        controller = harness.controller.pid
        empty_kb = _resident_kb(controller)
        started = time.perf_counter()
        running = []
        each = max(50, calls // count)
        for _ in range(count):
            # Each waits for its input to end, so that all begin at once.
            command = [program, "call", str(each), "latency", "together"]
            box = harness.run(
                command, kmem_limit="64M", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            running.append(stack.enter_context(box))
        start_seconds = time.perf_counter() - started
        kb_each = (_resident_kb(controller) - empty_kb) / count
        busy = sum(processor_seconds(controller))
        for box in running:
            box.running.stdin.close()
        texts = [box.running.stdout.read() for box in running]
        busy = sum(processor_seconds(controller)) - busy
        found = [dict(_FIGURES.findall(str(text))) for text in texts]
        first = min(float(one["from"]) for one in found)
        seconds = (max(float(one["to"]) for one in found) - first) / 1e9
        latency = {
            name: round(statistics.median(float(one[name]) for one in found) / 1000, 1)
            for name in ("p50", "p99", "p999")
        }
        for box in running:
            box.wait(timeout=60)
            box.running.stdout.close()
    return {
        "boxes": count,
        "calls_per_second": round(count * each / seconds),
        **{f"{name}_us": value for name, value in latency.items()},
        "controller_share_of_cpu": round(busy / seconds, 2),
        "controller_kb": empty_kb,
        "controller_kb_a_box": round(kb_each),
        "start_ms_a_box": round(start_seconds / count * 1000, 1),
    }


_FILL = """
import os, signal, sys, time
made = 0
nr_refused = int(sys.argv[1])
try:
    while True:
        if os.fork() == 0:
            signal.pause()
        made += 1
except OSError:
    pass
took = []
print(made, flush=True)
sys.stdin.readline()
for _ in range(nr_refused):
    began = time.perf_counter()
    try:
        os.fork() or os._exit(0)
    except OSError:
        took.append(time.perf_counter() - began)
took.sort()
print(took[len(took) // 2], took[len(took) * 99 // 100], flush=True)
"""


def tasks(program: str, count: int) -> dict[str, Any]:
    """Fill a box with *count* tasks, and time forks that are refused, and what a census takes.

    Meanwhile another box makes calls, as it did before there were any refusals.
    """
    with Harness("v4") as harness:
        command = [sys.executable, "-I", "-S", "-c", _FILL, str(_REFUSED)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with harness.run(command, kmem_limit=count * 8192, **streams) as box:
            made = int(box.running.stdout.readline())
            alone = _calls(harness, program)
            box.running.stdin.write(b"\n")
            box.running.stdin.flush()
            beside = _calls(harness, program)
            middle, worst = map(float, box.running.stdout.readline().split())
            box.wait(timeout=60)
            box.running.stdin.close()
            box.running.stdout.close()
            census = box.report()["census"]
    return {
        "tasks": made,
        "refused_fork_p50_us": round(middle * 1e6, 1),
        "refused_fork_p99_us": round(worst * 1e6, 1),
        "alone_p99_us": alone,
        "other_p99_us": beside,
        "census_us": round(census["seconds"] / max(1, census["count"]) * 1e6, 1),
    }


def _calls(harness: Harness, program: str) -> float:
    """Give the p99 of threads that a box with room makes. Units: microseconds."""
    command = [program, "thread", str(_BESIDE), "latency"]  # v4 supervises these alone
    with harness.run(command, kmem_limit="1G", stdout=subprocess.PIPE) as box:
        text = str(box.running.stdout.read())
        box.wait(timeout=60)
        box.running.stdout.close()
    return round(float(dict(_FIGURES.findall(text))["p99"]) / 1000, 1)


def depth(levels: int) -> dict[str, Any]:
    """Charge and uncharge through *levels* memcgs."""
    tree = MemcgTree(profile_named("5.10"), stock=False, use_hierarchy=True)
    path = ""
    for number in range(levels):
        path += f"/{number}"
        memcg = tree.make(path)
    rounds = []
    for _ in range(51):
        started = time.thread_time_ns()
        for _ in range(1_000):
            memcg.try_charge(8192)
            memcg.uncharge(8192)
        rounds.append((time.thread_time_ns() - started) / 1_000_000)
    return {"levels": levels, "charge_and_uncharge_us": round(statistics.median(rounds), 2)}


def objects(count: int) -> dict[str, Any]:
    """Charge *count* objects to a thousand memcgs, then one more: the books do not slow down."""
    tree = MemcgTree(profile_named("5.10"), stock=False, use_hierarchy=True)
    tree.make("/all")
    memcgs = [tree.make(f"/all/{number}") for number in range(1_000)]
    times = {}
    for name, rounds in (("first", 1), ("rest", count // 1_000 - 2), ("last", 1)):
        started = time.thread_time()
        for _ in range(rounds):
            for memcg in memcgs:
                memcg.try_charge(264)
        times[name] = (time.thread_time() - started) / max(1, rounds) / 1_000 * 1e6
    return {
        "objects": tree.find("/all").kmem.usage // 264,
        **{f"{name}_us": round(value, 2) for name, value in times.items()},
    }


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_scale", description=__doc__)
    parser.add_argument("--boxes", nargs="*", type=int, default=BOXES)
    parser.add_argument("--tasks", nargs="*", type=int, default=TASKS)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--scale-json", type=Path, metavar="FILE")
    # The other benchmarks' options, which nox hands to each.
    known, _ = parser.parse_known_args(arguments)
    return known


def main(arguments: list[str]) -> int:
    """Measure, and print a line for each figure."""
    options = _options(arguments)
    compiler = find_compiler()
    if compiler is None:
        print(why_no_compiler())
        return 1
    rows: dict[str, list[dict[str, Any]]] = {"depth": [depth(each) for each in DEPTHS]}
    rows["objects"] = [objects(OBJECTS)]
    with TemporaryDirectory() as directory:
        program = str(Programs(Path(directory), compiler)["load"])
        Path(directory).chmod(0o755)
        rows["tasks"] = [tasks(program, count) for count in options.tasks]
        rows["boxes"] = [boxes(program, count, options.calls) for count in options.boxes]
    for name, each in rows.items():
        for row in each:
            print(f"{name:8} " + "  ".join(f"{key} {value}" for key, value in row.items()))
    if options.scale_json is not None:
        options.scale_json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(show.bounds(_reached(rows)))
    return 0


def _reached(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Give the figures that something was promised of, by the names of ``BOUNDS``."""
    boxes = {row["boxes"]: row for row in rows["boxes"]}
    tasks = {row["tasks"]: row for row in rows["tasks"]}
    reached: dict[str, float] = {}
    if 1_000 in tasks:
        reached["refused p50"] = tasks[1_000]["refused_fork_p50_us"]
        reached["refused p99"] = tasks[1_000]["refused_fork_p99_us"]
        reached["other p99"] = tasks[1_000]["other_p99_us"] / tasks[1_000]["alone_p99_us"]
    if {1, 64} <= boxes.keys():
        reached["64 boxes"] = boxes[64]["calls_per_second"] / boxes[1]["calls_per_second"]
    if 512 in boxes:
        reached["512 memory"] = boxes[512]["controller_kb"]
        reached["512 each"] = boxes[512]["controller_kb_a_box"]
        reached["512 start"] = boxes[512]["start_ms_a_box"] * 512 / 1000
    return reached


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
