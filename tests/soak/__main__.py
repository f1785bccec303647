"""Run one controller for an hour under calls of every kind, and say whether it grew or slowed down.

``python -m tests.soak [--seconds N] [--calls N] [--json FILE] [--picture FILE.svg]``. It goes on
until both are reached; the calls are spread over the time, so that half a machine is left to others. Exit: 0 if all that is promised held, else 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.soak.picture import draw
from tests.soak.run import BOXES, soak
from tests.soak.verdict import judge, minutes
from tests.support.programs import Programs, find_compiler, why_no_compiler

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.soak.run import Soak
    from tests.soak.verdict import Row

SECONDS, CALLS = 3600.0, 50_000_000
#: Boxes call so much faster than they must: a busy machine keeps them from it at times.
SPARE = 1.2
_MINUTE = 60.0


def _teller(stretch: float) -> Callable[[Soak], None]:
    """Say once in each stretch how far it is."""
    told = 0

    def tell(seen: Soak) -> None:
        nonlocal told
        if seen.seconds // stretch <= told:
            return
        told = int(seen.seconds // stretch)
        latest = seen.samples[-1]
        done = minutes(seen.windows, stretch)
        p99 = done[-1].percentile_us(0.99) if done else None
        print(
            f"{seen.seconds:7.0f} s  {seen.calls / 1e6:7.2f} M calls  p99 {p99} us  "
            f"{latest.resident / (1 << 20):.2f} MB  {latest.descriptors} descriptors",
            file=sys.stderr,
            flush=True,
        )

    return tell


def _figures(seen: Soak, rows: list[Row], stretch: float) -> dict[str, Any]:
    return {
        "seconds": round(seen.seconds, 1),
        "calls": seen.calls,
        "notifications": sum(report["notifications"] for report in seen.reports),
        "boxes_passing": seen.passing,
        "failures": seen.failures,
        "promises": [asdict(row) for row in rows],
        "windows": [
            {
                "began": window.began,
                "calls": window.calls,
                "refused": window.refused,
                **{
                    f"{name}_us": window.percentile_us(share)
                    for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
                },
            }
            for window in minutes(seen.windows, stretch)
        ],
        "samples": [asdict(sample) for sample in seen.samples[:: max(1, int(stretch // 10))]],
    }


def main(arguments: list[str]) -> int:
    """Run it, show it, and say whether it held."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")
    options = parser.parse_args(arguments)
    compiler = find_compiler()
    if compiler is None:
        print(why_no_compiler(), file=sys.stderr)
        return 1
    stretch = min(_MINUTE, options.seconds / 10)
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)  # the target may be somebody else
        program = str(Programs(Path(directory, "programs"), compiler)["soak"])
        seen = soak(
            program,
            directory,
            seconds=options.seconds,
            calls=options.calls,
            rate=int(SPARE * options.calls / options.seconds / len(BOXES)) + 1,
            tick=min(1.0, stretch / 4),
            tell=_teller(stretch),
        )
    rows = judge(seen, stretch=stretch)
    for row in rows:
        print(
            f"{'held' if row.held else 'LOST':6} {row.what}: {row.reached}, promised {row.promised}"
        )
    for failure in seen.failures:
        print(failure)
    if options.json is not None:
        text = json.dumps(_figures(seen, rows, stretch), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.picture is not None:
        draw(seen, stretch, options.picture)
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
