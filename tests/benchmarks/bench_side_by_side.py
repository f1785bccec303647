"""Compare the harness with native, with its floor and with its peers, in one run, interleaved.

``python -m tests.benchmarks.bench_side_by_side [--quick] [--only LOAD...] [--rounds N] [--json
FILE] [--picture FILE.svg] [--write-baseline] [--check]``. ``--check`` compares ratios, never
times, with ``baseline.json``: a load that seems to have lost a fifth is measured again, and the
check fails if it has lost it both times.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from kmem_harness import Harness
from tests.benchmarks import show
from tests.benchmarks.loads import LOADS, Load, prepare
from tests.benchmarks.measure import Figures, measure
from tests.benchmarks.targets import BASELINE, CALLS, losses, write_baseline
from tests.benchmarks.ways import BUSY, Ways
from tests.support.programs import Programs, find_compiler, why_no_compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUNDS, QUICK_ROUNDS, QUICK_SHARE = 7, 1, 0.01
_FOR_COMMANDS = frozenset(
    {"native", "C loop, our filter", "no limit", "limit", "limit tasks", "sandlock", "pids cgroup"}
)
#: What one way in particular is compared with, by load: the rest is left out of it.
_ONLY_FOR = {"C loop": ("call", "plain"), "Python loop": ("call",)} | dict.fromkeys(BUSY, ("fork",))
#: Loads that a way is left out of: strace stops each of a million calls, twice; sandlock forbids
#: to listen.
_NOT_FOR = {"strace": ("plain",), "sandlock": ("redis",)}
_MEMORY = Path("/dev/shm")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_side_by_side", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(LOADS), metavar="LOAD")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works")
    parser.add_argument("--share", type=float, default=1.0, help="do so much less of each")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")
    parser.add_argument("--write-baseline", action="store_true")
    parser.add_argument("--check", action="store_true")
    return parser.parse_args(arguments)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _ways_of(ways: Ways) -> Callable[[Load], dict[str, Callable[[Sequence[str]], str]]]:
    def choose(load: Load) -> dict[str, Callable[[Sequence[str]], str]]:
        """Leave the floors to the loads they are floors of, and what is much slower to small loads."""
        if load.script is not None:
            return {
                name: run
                for name, run in ways.runs.items()
                if name in _FOR_COMMANDS and load.name not in _NOT_FOR.get(name, ())
            }
        return {
            name: run
            for name, run in ways.runs.items()
            if load.name in _ONLY_FOR.get(name, (load.name,))
            and load.name not in _NOT_FOR.get(name, ())
        }

    return choose


def main(arguments: list[str]) -> int:
    """Measure, show, and say whether a check held."""
    options = _options(arguments)
    compiler = find_compiler()
    if compiler is None:
        _tell(why_no_compiler())
        return 1
    if options.check and not BASELINE.exists():
        _tell(f"nothing to check against: write {BASELINE.name} with --write-baseline, at rest")
        return 1
    rounds, share = (
        (QUICK_ROUNDS, QUICK_SHARE) if options.quick else (options.rounds, options.share)
    )
    place = _MEMORY if _MEMORY.is_dir() else None
    with TemporaryDirectory(dir=place) as directory, Harness("5.10") as harness:
        prepare(Path(directory))
        programs = Programs(Path(directory, "programs"), compiler)
        program, notified = str(programs["load"]), str(programs["notified"])
        with closing(Ways(harness, notified, directory)) as ways:
            loads = [LOADS[name] for name in options.only or LOADS]
            for load in loads:
                if load.missing:
                    _tell(f"{load.name}: left out, {load.missing} is not installed")
            for way, reason in ways.missing.items():
                _tell(f"{way}: left out, {reason}")

            def run(names: Sequence[str], rounds: int) -> Figures:
                return measure(
                    [load for load in loads if load.name in names and not load.missing],
                    _ways_of(ways),
                    program,
                    rounds=rounds,
                    share=share,
                    tell=_tell,
                )

            figures = run([load.name for load in loads], rounds)
            figures.profiles = {
                load.name: (profile, rounds * load.times(share))
                for load in loads
                if (profile := ways.profiles.get(tuple(load.command(program, share))))
            }
            lost = losses(figures) if options.check else []
            slower = [line for line in lost if CALLS not in line]  # a count is no matter of chance
            if slower:
                _tell("measured again: " + "; ".join(slower))
                names = {line.partition(",")[0] for line in slower}
                again = losses(run(sorted(names), rounds * 2))
                still = [line for line in again if any(line.split(":")[0] in old for old in slower)]
                lost = [line for line in lost if line not in slower] + still
    _show(figures, options)
    for line in lost:
        print(f"LOST {line}")
    return 1 if lost else 0


def _show(figures: Figures, options: argparse.Namespace) -> None:
    print(show.table(figures))
    print(show.profiles(figures))
    print(show.targets(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures.as_json(), indent=1) + "\n", encoding="utf-8")
    if options.picture is not None:
        show.picture(figures, options.picture)
    if options.write_baseline:
        write_baseline(figures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
