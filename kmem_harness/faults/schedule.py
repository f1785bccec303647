"""Keep the fault rules of one box: count what they match, and say which call shall fail.

Pure: a call is a name and its argument words; who called and which path it named are asked for only
if a rule wants to know. The same seed and the same calls give the same failures.
"""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from kmem_harness.faults.calls import Call, call_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kmem_harness.faults.rule import Rule

__all__ = ["Armed", "Schedule", "Verdict"]

_SEEDS = 2**32
_FORKS = frozenset({"task"})
_OF_CLONE = frozenset({"task", "thread"})


class Armed:
    """One rule in one box, and what it has counted."""

    __slots__ = (
        *("_fired", "_over", "_random", "begun"),
        *("delayed", "failed", "matched", "paths", "rule", "seed"),
    )

    def __init__(self, rule: Rule) -> None:
        """Begin to count; a rule that draws and has no seed gets one, and says which."""
        self.rule = rule
        self.seed = rule.seed
        if rule.prob < 1 and self.seed is None:
            self.seed = random.SystemRandom().randrange(_SEEDS)
        #: Whether it counts by now: see its ``start``.
        self.begun = rule.start is None
        self.matched = 0
        self.failed = 0
        self.delayed = 0
        self.paths = 0
        self._fired = self._over = False
        self._random = random.Random(self.seed)  # noqa: S311 - a schedule, not a secret

    @property
    def text(self) -> str:
        """The rule, with the seed it drew: written so, it does the same again."""
        if self.seed is None or self.rule.seed is not None:
            return self.rule.text
        return f"{self.rule.text}:seed={self.seed}"

    @property
    def never_fired(self) -> bool:
        """Whether it has done nothing so far, and that is not what it says or a matter of chance."""
        rule = self.rule
        if rule.optional or rule.counts_only or self.failed or self.delayed:
            return False
        return rule.prob >= 1 or not self.matched

    def hits(self) -> bool:
        """Count one matching call; say whether the rule does something to it."""
        rule = self.rule
        self.matched += 1
        # Drawn for every match, so that the schedule depends on nothing but seed and number.
        drawn = rule.prob >= 1 or self._random.random() < rule.prob
        if rule.counts_only or self._over:
            return False
        if not (self._fired and rule.then == "persist") and not (
            drawn and rule.wants(self.matched)
        ):
            return False
        self._fired = True
        self._over = rule.then == "recover"
        return True

    def report(self) -> dict[str, Any]:
        """Give the row of the report's ``faults``."""
        row = {
            "rule": self.text,
            "matched": self.matched,
            "failed": self.failed,
            "delayed": self.delayed,
        }
        if self.rule.path is not None:
            # Counted beside the decision, never for it: the path is the target's to rewrite.
            row["path_matched"] = self.paths
        if self.never_fired:
            row["never_fired"] = True
        if self.rule.start is not None:
            row["begun"] = self.begun
        return row


class Verdict:
    """What shall be done to one call: fail it, hold it for a while, or first one, then the other."""

    __slots__ = ("delay_seconds", "failing", "number")

    def __init__(self) -> None:
        """Do nothing so far."""
        self.failing: Armed | None = None
        self.number = 0
        self.delay_seconds = 0.0


class Schedule:
    """All rules of one box."""

    def __init__(self, rules: Sequence[Rule], numbers: Mapping[str, int]) -> None:
        """Compile *rules* for an architecture whose calls have *numbers*; others it lacks."""
        self.armed = [Armed(rule) for rule in rules]
        self._waiting = [armed for armed in self.armed if not armed.begun]
        self.calls: dict[int, Call] = {}
        #: Times each call was tried, for whoever wants to name one again.
        self.tried: dict[int, int] = {}
        self.charges = 0
        self._by_number: dict[int, tuple[Armed, ...]] = {}
        starts = {name for rule in rules if rule.start for name in rule.start.calls}
        for name in sorted({name for rule in rules for name in rule.syscalls} | starts):
            if name in numbers:
                number = numbers[name]
                self.calls[number] = call_named(name)
                self.tried[number] = 0
                self._by_number[number] = tuple(
                    armed for armed in self.armed if name in armed.rule.syscalls
                )

    def names(self) -> frozenset[str]:
        """Name the calls that have to be trapped."""
        return frozenset(call.name for call in self.calls.values())

    @property
    def tells_tasks_apart(self) -> bool:
        """Whether a rule asks for tasks or threads alone, which clone3's number does not tell."""
        return any(armed.rule.kinds & _OF_CLONE or armed.rule.forking for armed in self.armed)

    def judge(
        self,
        number: int,
        arguments: Sequence[int],
        comm: Callable[[], str],
        path: Callable[[], str | None],
        argument: Callable[[], str | None] = lambda: None,
    ) -> Verdict | None:
        """Count one call, one of :attr:`calls`; ``None`` where no rule does anything to it.

        All rules count it; the first that fails it wins, and of delays the longest.
        """
        call = self.calls[number]
        self.tried[number] += 1
        marked = self._begin(call.name, comm, path, argument) if self._waiting else ()
        makes = call.makes(arguments)
        self.charges += makes and bool(self._by_number[number])
        verdict = None
        for armed in self._by_number[number]:
            rule = armed.rule
            if not armed.begun or (not makes and call.name in rule.charging):
                continue
            kinds = _FORKS if call.name in rule.forking else rule.kinds
            if kinds and call.kind(arguments) not in kinds:
                continue
            if rule.comm is not None and comm() != rule.comm:
                continue
            if rule.path is not None and fnmatchcase(path() or "", rule.path):
                armed.paths += 1
            if not armed.hits():
                continue
            verdict = verdict or Verdict()
            if rule.delay_seconds:
                armed.delayed += 1
                verdict.delay_seconds = max(verdict.delay_seconds, rule.delay_seconds)
            if rule.error is not None and verdict.failing is None:
                armed.failed += 1
                verdict.failing, verdict.number = armed, armed.matched
        for armed in marked:
            armed.begun = True
        return verdict

    def _begin(
        self,
        name: str,
        comm: Callable[[], str],
        path: Callable[[], str | None],
        argument: Callable[[], str | None],
    ) -> list[Armed]:
        """Have rules count that wait for this call; give those that count from the next one on."""
        came = [
            armed
            for armed in self._waiting
            if armed.rule.start is None or armed.rule.start.is_at(name, comm, path, argument)
        ]
        self._waiting = [armed for armed in self._waiting if armed not in came]
        for armed in came:
            armed.begun = armed.rule.start is None or armed.rule.start.counts
        return [armed for armed in came if not armed.begun]

    def report(self) -> dict[str, Any]:
        """Give the report's ``faults``: what was tried, and what each rule did."""
        return {
            "charges": self.charges,
            "tried": {
                call.name: self.tried[number]
                for number, call in sorted(self.calls.items())
                if self.tried[number] and self._by_number[number]
            },
            "rules": [armed.report() for armed in self.armed],
        }
