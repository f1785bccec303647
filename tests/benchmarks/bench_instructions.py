"""Count the instructions of the hot path: a figure that stays where it is on a busy machine.

``python -m tests.benchmarks.bench_instructions [--write-baseline] [--check]``: valgrind counts
what Python executes for one charge through three levels, and one notification's unpacking and
answer. The difference of two runs of different length leaves out Python's own start; the quotient
with an empty call leaves out how this Python was built.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

BASELINE = Path(__file__).with_name("instructions.json")
GROWTH = 1.20
FEW, MANY = 500, 2_500
_PATHS = {
    "charge and uncharge, three levels": """
tree = MemcgTree(profile_named("5.10"), stock=False, use_hierarchy=True)
for path in ("/a", "/a/b"): tree.make(path)
memcg = tree.make("/a/b/c")
def once():
    memcg.try_charge(8192)
    memcg.uncharge(8192)
""",
    "decide a call on the fast path, three levels": """
path = FastPath(os.pipe()[0])
account = path.empty_account(0)
account.nr_counters = 6
for number in range(6):
    path.make_counter(number)
    path.counters[COUNTER_WORDS * number + 2] = 1 << 60
    account = path.account(0)
    account.counters[number] = number
account.prices[41] = 1
account.charges[1].nbytes = 8192
path.lend(0, 1 << 60)
call = NOTIFICATION.pack(1, 7, 0, 41, *[0] * 8)
assert path.decide(0, call) == 1
def once(): path.decide(0, call)
""",
    "unpack a notification, pack an answer": """
notification = bytes(NOTIFICATION.size)
answer = bytearray(24)
def once():
    id, tid, *_ = NOTIFICATION.unpack(notification)
    RESPONSE.pack_into(answer, 0, id, 0, 0, 1)
""",
}
_EMPTY = "def once(): pass"
_PROGRAM = """
import os
import sys
from struct import Struct
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from kmem_harness.interposer.fast_path import COUNTER_WORDS, FastPath
from kmem_harness.interposer.listener import NOTIFICATION
RESPONSE = Struct("=QqiI")
{setup}
for _ in range(int(sys.argv[1])):
    once()
"""
_COUNT = re.compile(r"Collected : (\d+)|I\s+refs:\s+([\d,]+)")


def instructions(setup: str, times: int) -> int:
    """Count the instructions of a whole run."""
    program = _PROGRAM.format(setup=setup)
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [sys.executable, "-c", program, str(times)]
    outcome = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"},
    )
    found = _COUNT.search(outcome.stderr)
    if found is None:
        message = f"valgrind counted nothing: {outcome.stderr[-300:]}"
        raise RuntimeError(message)
    return int((found[1] or found[2]).replace(",", ""))


def of_one(setup: str) -> float:
    """Count the instructions of one call of ``once``."""
    return (instructions(setup, MANY) - instructions(setup, FEW)) / (MANY - FEW)


def main(arguments: list[str]) -> int:
    """Count, show, and compare with the baseline of this version of Python."""
    parser = argparse.ArgumentParser(prog="bench_instructions", description=__doc__)
    parser.add_argument("--write-baseline", action="store_true")
    parser.add_argument("--check", action="store_true")
    options, _ = parser.parse_known_args(arguments)
    if shutil.which("valgrind") is None:
        print("left out: valgrind is not installed")
        return 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    lost = 0
    counted = {}
    unit = of_one(_EMPTY)
    for name, setup in _PATHS.items():
        each = of_one(setup)
        counted[name] = round(each / unit, 1)
        before = baseline.get(version, {}).get(name)
        beside = "" if before is None else f"   was {before}"
        if options.check and before is not None and counted[name] > before * GROWTH:
            lost += 1
            beside += "   LOST"
        print(f"{each:9,.0f} instructions, {counted[name]:5.1f} empty calls: {name}{beside}")
    if options.write_baseline:
        text = json.dumps(baseline | {version: counted}, indent=1, sort_keys=True)
        BASELINE.write_text(text + "\n", encoding="utf-8")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
