"""Say why a box ended, or why its command failed: one word out of nine, and the card that proves it.

Pure: takes an exit status and what was refused. The word is a judgement where a limit is named: the
command failed, and this was refused last; a command that ends well has ended by itself.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["REASONS", "Ended", "how_it_ended"]

#: Every reason, and how it is said to people.
REASONS = {
    "exit": "ended by itself",
    "signal": "ended by a signal",
    "timeout": "ended at its timeout",
    "kmem-limit": "failed at a kmem limit",
    "memory-limit": "failed at a memory limit",
    "pids-limit": "failed at a bound on tasks",
    "injected": "failed after a call was failed on purpose",
    "interrupted": "ended by its owner",
    "harness": "ended by a failure of the harness",
}
_LIMITS = {
    "kmem": "kmem-limit",
    "memory": "memory-limit",
    "pids": "pids-limit",
    "injected": "injected",
}
#: What a program ends with that goes wrong; other signals come from elsewhere.
_CRASHES = (
    *(signal.SIGILL, signal.SIGTRAP, signal.SIGABRT),
    *(signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV),
)


class Ended(NamedTuple):
    """Why a box ended; ``card`` is the refusal that proves it, ``None`` where none does."""

    reason: str
    card: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the report's ``ended``."""
        return {"reason": self.reason, "card": None if self.card is None else dict(self.card)}


def how_it_ended(
    exit_code: int,
    number: int | None,
    cards: Sequence[Mapping[str, Any]],
    *,
    by_owner: str | None = None,
    pids_refused: int = 0,
) -> Ended:
    """Judge an end by its exit code and the *number* of the signal that made it, if any.

    *by_owner* is the reason its owner gave for ending it; *cards* are its refusals, oldest first.
    """
    if by_owner is not None:
        return Ended(by_owner)
    plain = Ended("exit" if number is None else "signal")
    if exit_code == 0 or number not in (None, signal.SIGKILL, *_CRASHES):
        return plain
    if number == signal.SIGKILL:
        cards, pids_refused = [card for card in cards if card["errno"] == "OOM"], 0
    # The kernel's bound on tasks tells how often it refused, and not when: its card is the last resort.
    cards = [card for card in cards if card["counter"] != "pids"] or cards
    if cards:
        return Ended(_LIMITS.get(cards[-1]["counter"], "kmem-limit"), cards[-1])
    return Ended("pids-limit") if pids_refused else plain
