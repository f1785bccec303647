"""Say how one run of a sweep went, and judge it against the run without faults. Data and rules."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kmem_harness.faults.common import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.faults.common import Common

__all__ = ["WHATS", "Finding", "Outcome", "Site", "judge"]

#: What a finding can be, and how it is said.
WHATS = {
    "hang": "never ended",
    "crash": "died of a signal",
    "exit": "exit code outside the allowed ones",
    "leftover": "left processes behind",
    "leak": "went on as if nothing were wrong, and held more at its end",
    "output": "claimed success, with other output",
    "files": "claimed success, and left other files",
    "failed": "the test failed",
}
#: From here on a shell tells of a child that died of a signal.
_SIGNALLED = 128
#: What bash ends with that cannot fork any more: no signal has these numbers, or it is SIGHUP's.
_GIVEN_UP = (129, 254)


@dataclass(frozen=True)
class Site:
    """Where a fault hit: the program, its call, and the kind of object it would have made."""

    comm: str
    syscall: str
    kind: str

    def __str__(self) -> str:
        """Write it for people."""
        what = "" if self.kind == self.syscall else f" ({self.kind})"
        return f"{self.syscall}{what} by {self.comm}"


@dataclass(frozen=True)
class Outcome:
    """One run. Units: seconds. ``status`` as a shell says it; JSON-ready with :meth:`as_dict`.

    ``failed`` counts the calls that were failed on purpose; ``site`` and ``nth`` tell of the
    first: where it was, and the how-manieth call of its name. ``holds`` and ``others`` are what the
    first process held and who else was alive when it exited, ``None`` if it did not exit.
    """

    status: int
    signal: int | None = None
    timed_out: bool = False
    seconds: float = 0.0
    charges: int = 0
    failed: int = 0
    site: Site | None = None
    nth: int = 0
    holds: dict[str, int] | None = None
    others: tuple[str, ...] | None = None
    #: Digests of standard output and of each file left in TMPDIR, ``None`` if nobody looked.
    output: str | None = None
    files: Mapping[str, str] | None = field(default=None, hash=False)
    #: The last line of standard error, for people.
    said: str = ""
    #: How a test's own body failed.
    failure: str | None = None
    cards: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)

    def same_end(self, other: Outcome) -> bool:
        """Say whether it ended as *other* did, as far as statuses and output tell."""
        mine = (self.status, self.signal, self.output)
        return mine == (other.status, other.signal, other.output)

    def as_dict(self) -> dict[str, Any]:
        """Give what is kept in a state file: all but the cards."""
        kept = asdict(self)
        del kept["cards"]
        return kept

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Outcome:
        """Read what :meth:`as_dict` gave, after a way through JSON. Raises: TypeError, KeyError."""
        site = kept.pop("site")
        others = kept.pop("others")
        return cls(
            **kept,
            site=None if site is None else Site(**site),
            others=None if others is None else tuple(others),
        )


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run; ``detail`` is for people."""

    what: str
    detail: str


def judge(
    outcome: Outcome,
    normal: Outcome,
    exits: frozenset[int] | None,
    common: Common = NOTHING,
) -> list[Finding]:
    """List what is wrong with a run, against *normal*, one without faults.

    *common* is what such runs have in common. *exits* are the exit codes that are fine; ``None``
    stands for all that no signal made, and those of a shell that gives up.
    """
    if outcome.failure is not None:
        return [Finding("failed", outcome.failure)]
    if outcome.timed_out:
        return [Finding("hang", f"still ran after {outcome.seconds:.1f} s")]
    if outcome.signal is not None and outcome.signal != normal.signal:
        return [Finding("crash", _signal_name(outcome.signal))]
    found = []
    fine = _is_exit(outcome.status) if exits is None else outcome.status in exits
    if not fine and outcome.status != normal.status:
        found.append(Finding("exit", f"exit {outcome.status}"))
    more = _more_than(outcome.others or (), normal.others or ())
    if more:
        found.append(Finding("leftover", f"alive at its end: {', '.join(more)}"))
    if outcome.status == normal.status == 0:
        # It says that all went well; then it shall have done what it does when all goes well.
        kept = _held_more(outcome.holds, normal.holds)
        if kept:
            found.append(Finding("leak", f"held at its end, more than without the fault: {kept}"))
        if common.output and outcome.output != normal.output:
            found.append(Finding("output", "exit 0, and its output differs"))
        differ = common.differences(outcome.files)
        if differ:
            found.append(Finding("files", f"exit 0, and the files in its TMPDIR differ: {differ}"))
    return found


def _is_exit(status: int) -> bool:
    """Say whether a shell's status is a program's own word, and not that a signal ended it."""
    return status < _SIGNALLED or status in _GIVEN_UP


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _more_than(these: tuple[str, ...], those: tuple[str, ...]) -> list[str]:
    left = list(those)
    more = []
    for name in these:
        if name in left:
            left.remove(name)
        else:
            more.append(name)
    return more if len(these) > len(those) else []


def _held_more(now: dict[str, int] | None, before: dict[str, int] | None) -> str:
    if now is None or before is None:
        return ""
    more = {kind: count - before.get(kind, 0) for kind, count in now.items()}
    return ", ".join(f"{count} {kind}" for kind, count in more.items() if count > 0)
