"""The long form: ``python -m tests.ordinary [--times N] [--install] [--isolation I] [NAME...]``.

Prints a table of program, seconds natively and in each way, and the slow-down; exits with 1 if one
did anything else than natively. ``--install`` has apt-get, as root, install what is missing.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys

from kmem_harness.runtimes.local import best_isolation
from tests.ordinary.table import LONG, SHORT, Program
from tests.ordinary.ways import WAYS, Outcome, busy_neighbour, missing, run

BOXED = [way for way in WAYS if way != "native"]


def main() -> int:
    """Run the table and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.ordinary")
    parser.add_argument("--times", type=int, default=10, help="runs in each way")
    parser.add_argument("--isolation", help="how boxes are kept apart")
    parser.add_argument("--install", action="store_true", help="apt-get install what is missing")
    parser.add_argument("--seed", type=int, default=None, help="of the random order")
    parser.add_argument("names", nargs="*", help="programs, by the beginnings of their names")
    options = parser.parse_args()
    programs = [
        one
        for one in (*SHORT, *LONG)
        if not options.names or one.name.startswith(tuple(options.names))
    ]
    if options.install:
        install(programs)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    order = random.Random(seed)
    print(f"seed {seed}, {options.times} runs in each way, beside a busy neighbour\n")
    print(f"| program | native | {' | '.join(BOXED)} | slow-down | same |")
    print("|---|" + "---|" * (len(BOXED) + 3))
    isolation = options.isolation or best_isolation()
    with busy_neighbour():
        good = [judge(one, options.times, isolation, order) for one in programs]
    return 0 if all(good) else 1


def judge(program: Program, times: int, isolation: str, order: random.Random) -> bool:
    """Run one, print its row, and say whether it did the same each time; one that cannot run does."""
    why_not = ""
    if missing(program):
        why_not = f"needs {', '.join(program.packages)}"
    elif isolation in program.not_in or (program.needs_root and os.geteuid() != 0):
        why_not = f"not in isolation {isolation}, or not as this user"
    if why_not:
        print(f"| {program.name} | {' | ' * (len(BOXED) + 1)} | {why_not} |", flush=True)
        return True
    runs = [way for way in WAYS for _ in range(times)]
    order.shuffle(runs)
    seen: dict[str, list[Outcome]] = {way: [] for way in WAYS}
    for way in runs:
        seen[way].append(run(program, way, isolation))
    seconds = {way: statistics.median(one.seconds for one in seen[way]) for way in WAYS}
    known = seen["native"]
    odd = [(way, one) for way in BOXED for one in seen[way] if one not in known]
    cells = " | ".join(f"{seconds[way]:.2f} s" for way in WAYS)
    slow = max(seconds[way] for way in BOXED) / seconds["native"]
    verdict = "yes" if not odd else f"{len(odd)} of {times * len(BOXED)} differ"
    print(f"| {program.name} | {cells} | {slow:.2f} | {verdict} |", flush=True)
    for way, one in odd[:2]:
        print(f"\n{program.name}, {way}: {one}\n  natively: {known[0]}\n", file=sys.stderr)
    return not odd


def install(programs: list[Program]) -> None:
    """Have the packages that are missing installed, and none of their daemons started."""
    wanted = sorted({name for one in programs if missing(one) for name in one.packages})
    if wanted:
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *wanted]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(command, check=False, env=quiet, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
