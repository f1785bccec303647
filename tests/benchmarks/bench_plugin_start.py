"""Time an unrelated test run with the pytest plugin and without it, and the import by itself.

``python -m tests.benchmarks.bench_plugin_start [ROUNDS]``; interleaved, medians. It judges nothing.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory

import kmem_harness

ROUNDS = 15
PLUGIN = "kmem_harness.pytest_plugin"


def main(arguments: list[str]) -> int:
    """Measure and print a table."""
    rounds = int(arguments[0]) if arguments else ROUNDS
    environment = {name: text for name, text in os.environ.items() if name[:12] != "KMEM_HARNESS"}
    environment |= {
        "PYTHONPATH": str(Path(kmem_harness.__file__).parent.parent),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages are compiled
    took: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    imports = []
    with TemporaryDirectory(prefix="kmem-bench-") as directory:
        Path(directory, "test_unrelated.py").write_text("def test_one(): pass\n", encoding="utf-8")

        def run(*words: str) -> tuple[float, float, str]:
            began, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
            outcome = subprocess.run(
                [sys.executable, *words],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            after = getrusage(RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return time.perf_counter() - began, cpu, outcome.stderr

        plain = ("-m", "pytest", "-q")
        for _ in range(rounds + 1):  # the first compiles
            took["with"].append(run(*plain, "-p", PLUGIN)[:2])
            took["without"].append(run(*plain)[:2])
            shown = run("-X", "importtime", *plain, "-p", PLUGIN)[2]
            ours = re.findall(r"time:\s+(\d+) \|.*kmem_harness", shown)
            imports.append(sum(map(int, ours)) / 1000)
    print(f"an unrelated run of pytest, median of {rounds}, in ms:")
    for column, what in enumerate(("elapsed", "of a processor")):
        with_it, without = (
            1000 * statistics.median(row[column] for row in took[name][1:])
            for name in ("with", "without")
        )
        print(f"{what:>15}: {with_it:7.1f} with, {without:7.1f} without, {with_it - without:+6.1f}")
    print(
        f"  -X importtime: {statistics.median(imports[1:]):7.1f}, at least {min(imports[1:]):.1f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
