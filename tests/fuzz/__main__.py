"""Run many inputs through the readers: ``python -m tests.fuzz --inputs N --seed S``."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import PART, Result, feed
from tests.fuzz.readers import READERS

_COLUMNS = "{:20} {:>10} {:>9} {:>8} {:>9} {:>11} {:>10} {:>4} {:>8}\n"


def main() -> int:
    """Feed the readers, print a line for each, and end with 1 if there was a finding."""
    arguments = _arguments()
    names = arguments.only or list(READERS)
    if arguments.atheris:
        return _guided(names, arguments.seconds or 60)
    total = sum(READERS[name].share for name in names)
    results = []
    sys.stdout.write(_COLUMNS.format(*_HEAD))
    for name in names:
        share = READERS[name].share / total
        inputs = None if arguments.seconds else -(-int(arguments.inputs * share) // PART) * PART
        seconds = arguments.seconds and arguments.seconds / len(names)
        result = feed(
            *(name, READERS[name], arguments.seed),
            inputs=inputs,
            seconds=seconds,
            only_part=arguments.part,
        )
        results.append(result)
        sys.stdout.write(_row(result))
        sys.stdout.writelines(f"FINDING {finding}\n" for finding in result.findings)
        sys.stdout.flush()
    inputs = sum(one.inputs for one in results)
    seconds = sum(one.seconds for one in results)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"{inputs:,} inputs in {seconds:.0f} s (seed {arguments.seed}), {peak:.0f} MiB at most\n"
    )
    if arguments.json:
        rows = {"seed": arguments.seed, "readers": [one.as_dict() for one in results]}
        Path(arguments.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 1 if any(one.findings for one in results) else 0


_HEAD = (
    *("reader", "inputs", "taken", "s", "inputs/s", "slowest ms", "growth kB", "fds", "findings"),
)


def _row(result: Result) -> str:
    return _COLUMNS.format(
        result.reader,
        f"{result.inputs:,}",
        f"{result.taken / max(result.inputs, 1):.0%}",
        f"{result.seconds:.1f}",
        f"{result.inputs / max(result.seconds, 1e-9):,.0f}",
        f"{1000 * result.slowest:.1f}",
        f"{result.growth // 1024:,}",
        result.descriptors,
        len(result.findings),
    )


def _guided(names: list[str], seconds: float) -> int:
    """Have atheris look for inputs that reach new code, for each reader in a process of its own."""
    status = 0
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            corpus = Path(directory, "corpus")
            corpus.mkdir()
            for number, example in enumerate(READERS[name].examples):
                (corpus / str(number)).write_bytes(example)
            command = [sys.executable, "-m", "tests.fuzz.guided", name, str(corpus)]
            command.append(f"-max_total_time={seconds / len(names):.0f}")
            # It ends without having closed anything: what it leaves is in that directory.
            environment = {**os.environ, "TMPDIR": directory}
            status |= subprocess.run(command, check=False, env=environment).returncode
    return 1 if status else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="in all")
    parser.add_argument("--seconds", type=float, metavar="S", help="in all, in place of --inputs")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--only", action="append", choices=READERS, metavar="NAME")
    parser.add_argument(
        "--part", type=int, help=f"only this part of {PART} inputs, as a finding names it"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--atheris", action="store_true", help="guided by coverage, for --seconds")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
