"""Find the smallest limit a command passes under, by halving, and what refused it below that."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.limit_text import PAGE
from kmem_harness.core.sizes import format_size
from kmem_harness.limits.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.harness import Harness

__all__ = ["Smallest", "smallest_limit"]

_TIMEOUT_SECONDS = 60.0
_SHOWN = 5


@dataclass(frozen=True)
class Smallest:
    """What was found. Units: bytes. ``below`` is the largest limit it failed under, if any.

    ``ended`` tells of the run that passes: it may have been refused something and made do.
    """

    limit: int
    ended: str
    runs: int
    below: int | None
    below_ended: str
    refused: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give it JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class _Tried:
    passed: bool
    ended: str
    refused: tuple[str, ...]


def smallest_limit(
    harness: Harness,
    command: Sequence[str],
    low: int,
    high: int,
    *,
    exits: frozenset[int] = frozenset({0}),
    timeout: float | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Smallest:
    """Halve *low* to *high*, bytes, down to a page. What passes under a limit passes under more.

    A run passes if its exit code is one of *exits* within *timeout* seconds (60 by default).
    *tell* is given a line for each run. Raises: ConfigurationError if it does not pass at *high*.
    """
    runs = 0

    def tried(limit: int) -> _Tried:
        nonlocal runs
        runs += 1
        outcome = _try(harness, command, limit, exits, timeout or _TIMEOUT_SECONDS)
        tell(f"{format_size(limit):>8}: {outcome.ended}")
        return outcome

    search = Search(_pages(low) * PAGE, _pages(high) * PAGE, PAGE, low_second=True)
    passed = failed = _Tried(passed=False, ended="", refused=())
    while search.value is not None:
        outcome = tried(search.value)
        search.learn(passed=outcome.passed)
        passed, failed = (outcome, failed) if outcome.passed else (passed, outcome)
    if search.smallest is None:
        refused = f"; refused: {failed.refused[0]}" if failed.refused else ""
        raise ConfigurationError(
            f"under {format_size(search.high)} it does not pass: {failed.ended}{refused}; "
            "give a higher HIGH, or --exits with what is fine"
        )
    return Smallest(
        search.smallest, passed.ended, runs, search.largest_failed, failed.ended, failed.refused
    )


def _pages(nbytes: int) -> int:
    return max(nbytes // PAGE, 1)


def _try(
    harness: Harness, command: Sequence[str], limit: int, exits: frozenset[int], timeout: float
) -> _Tried:
    own = tempfile.mkdtemp(prefix="kmem-sweep-")
    try:
        with harness.run(
            command,
            kmem_limit=limit,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            env={**os.environ, "TMPDIR": own},
        ) as box:
            try:
                status = box.wait(timeout)
            except TimeoutError:
                ended, passed = f"still ran after {timeout:g} s", False
            else:
                ended = f"signal {status.signal}" if status.signal else f"exit {int(status)}"
                passed = status.signal is None and int(status) in exits
            report = box.report()
    finally:
        shutil.rmtree(own, ignore_errors=True)
    sites: dict[str, int] = {}
    for card in report["refusals"]["cards"]:
        line = f"{card['syscall']} ({card['kind']}, {card['nbytes']} bytes) by {card['comm']}"
        sites[line] = sites.get(line, 0) + 1
    total = report["refusals"]["total"]
    refused = tuple(
        f"{line}, {count} times" if count > 1 else line for line, count in sites.items()
    )
    ended += f", {total} refused" if total else ", nothing refused"
    return _Tried(passed, ended, refused[:_SHOWN])
