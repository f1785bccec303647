"""Time fork+exit+wait: native, in a box without a limit, under a limit with room, and observed.

``python -m tests.benchmarks.bench_supervised [ITERATIONS [ROUNDS]]``; interleaved, medians, and
ratios to native. It judges nothing: what is too slow is said where a target is.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kmem_harness import Harness
from tests.support.programs import Programs, find_compiler, why_no_compiler

if TYPE_CHECKING:
    from collections.abc import Callable

ITERATIONS, ROUNDS = 2_000, 7


def main(arguments: list[str]) -> int:
    """Measure and print a table."""
    iterations, rounds = (*map(int, arguments), *(ITERATIONS, ROUNDS)[len(arguments) :])
    compiler = find_compiler()
    if compiler is None:
        print(why_no_compiler())
        return 1
    with TemporaryDirectory() as directory, Harness("v4") as harness:
        program = str(Programs(Path(directory), compiler)["fork_wait"])
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL}

        def box(**options: Any) -> None:
            with harness.run([program, str(iterations)], **quiet, **options) as one:
                one.wait()

        def native() -> None:
            subprocess.run([program, str(iterations)], check=True, **quiet)

        ways: dict[str, Callable[[], None]] = {
            "native": native,
            "box without a limit": box,
            "limit with room": lambda: box(kmem_limit="64M"),
            "limit of ten tasks": lambda: box(kmem_limit="80k"),
            "observed": lambda: box(mode="observe"),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                started = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - started) / iterations * 1e6)
    base = statistics.median(times["native"])
    for name, each in times.items():
        middle = statistics.median(each)
        print(f"{name:22} {middle:8.1f} us a fork  {middle / base:5.2f} x native")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
