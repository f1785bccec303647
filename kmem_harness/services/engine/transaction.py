"""Work out which jobs a request comes to, and see that they go together. Pure: installs nothing.

Source: transaction.c of systemd 252, step by step: pull in, drop what is there already, break cycles of
order, merge jobs on one unit, and drop those that contradict what matters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.engine.rules import (
    Atom,
    JobMode,
    JobType,
    collapsed,
    is_redundant,
    merged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Situation", "TransactionError", "transaction_for"]

#: Job: what it calls for on other units, as (atom, job there, whether that matters, whether it is
#: a conflict's).
_PULLS: dict[JobType, tuple[tuple[Atom, JobType, bool], ...]] = {
    JobType.START: (
        (Atom.PULL_IN_START, JobType.START, True),
        (Atom.PULL_IN_START_IGNORED, JobType.START, False),
        (Atom.PULL_IN_VERIFY, JobType.VERIFY_ACTIVE, True),
        (Atom.PULL_IN_STOP, JobType.STOP, True),
        (Atom.PULL_IN_STOP_IGNORED, JobType.STOP, False),
    ),
    JobType.STOP: ((Atom.PROPAGATE_STOP, JobType.STOP, True),),
    JobType.RELOAD: ((Atom.PROPAGATE_RELOAD, JobType.TRY_RELOAD, False),),
}
_PULLS[JobType.RESTART] = (
    *_PULLS[JobType.START],
    (Atom.PROPAGATE_RESTART, JobType.TRY_RESTART, True),
)


class TransactionError(ConfigurationError):
    """What is asked for cannot be: jobs contradict each other, or wait for each other."""


class Situation(Protocol):
    """How things stand when something is asked for."""

    def active(self, unit: str) -> str:
        """Give the state of a unit: active, reloading, inactive, failed, activating, deactivating."""

    def queued(self, unit: str) -> JobType | None:
        """Give the job that a unit has."""

    def related(self, unit: str, atom: Atom) -> Iterable[str]:
        """List the units that *unit* has *atom* towards."""

    def after(self, unit: str) -> set[str]:
        """List the units that *unit* is ordered after."""

    def why_not(self, unit: str, job: JobType) -> str:
        """Say why a unit cannot have such a job, or nothing."""

    def isolated(self) -> Iterable[str]:
        """List the units that do not survive another one's isolation."""


@dataclass(eq=False)
class _Wish:
    """A job as long as it is not certain."""

    unit: str
    type: JobType
    #: What it calls for, and whether it can do without.
    pulls: list[tuple[_Wish, bool]] = field(default_factory=list)
    matters: bool = False


def transaction_for(
    situation: Situation,
    wanted: Iterable[tuple[JobType, str]],
    mode: JobMode = JobMode.REPLACE,
    tell: Callable[[str, str], None] = lambda *_: None,
) -> dict[str, JobType]:
    """Give the jobs that *wanted* comes to, one a unit; units that have what is asked for need none.

    *tell* is given unit and words for what was dropped. Raises: TransactionError.
    """
    transaction = _Transaction(situation, tell)
    for job, unit in wanted:
        transaction.ask(job, unit)
    if mode is JobMode.ISOLATE:
        transaction.isolate()
    return transaction.activate(mode)


class _Transaction:
    def __init__(self, situation: Situation, tell: Callable[[str, str], None]) -> None:
        self._situation = situation
        self._tell = tell
        self._anchors: list[_Wish] = []
        self._wishes: dict[str, list[_Wish]] = {}

    # -- pulling in ------------------------------------------------------------------------

    def ask(self, job: JobType, unit: str) -> None:
        """Want something itself, not for something else."""
        why = self._situation.why_not(unit, collapsed(job, self._situation.active(unit)))
        if why:
            raise TransactionError(f"{unit}: a {job.value} job is not possible: {why}")
        self._anchors.append(self._add(job, unit))

    def isolate(self) -> None:
        """Stop all that is not pulled in."""
        for unit in self._situation.isolated():
            if unit not in self._wishes and (
                self._situation.queued(unit)
                or self._situation.active(unit) not in ("inactive", "failed")
            ):
                self._anchors.append(self._add(JobType.STOP, unit))

    def _add(self, job: JobType, unit: str) -> _Wish:
        job = collapsed(job, self._situation.active(unit))
        there = self._wishes.setdefault(unit, [])
        for wish in there:
            if wish.type is job:
                return wish
        wish = _Wish(unit, job)
        there.append(wish)
        for atom, pulled, matters in _PULLS.get(job, ()):
            for other in self._situation.related(unit, atom):
                kind = collapsed(pulled, self._situation.active(other))
                if kind is not JobType.NOP and not self._situation.why_not(other, kind):
                    wish.pulls.append((self._add(kind, other), matters))
        return wish

    # -- what remains ----------------------------------------------------------------------

    def activate(self, mode: JobMode) -> dict[str, JobType]:
        """Take the steps from wishes to jobs."""
        self._find_what_matters()
        if mode is JobMode.FAIL:
            self._minimize_impact()
        self._drop_redundant()
        while True:
            self._collect_garbage()
            cycle = self._cycle()
            if cycle is None:
                break
            self._break(cycle)
        while True:
            unit = next((unit for unit in self._wishes if self._as_one(unit) is None), None)
            if unit is None:
                break
            self._drop_one_of(unit)
            self._collect_garbage()
        found = {unit: self._as_one(unit) for unit in self._wishes}
        jobs = {
            unit: collapsed(job, self._situation.active(unit))
            for unit, job in found.items()
            if job is not None
        }
        jobs = {unit: job for unit, job in jobs.items() if not self._has(unit, job)}
        if mode is JobMode.FAIL:
            self._refuse_to_destroy(jobs)
        return jobs

    def _find_what_matters(self) -> None:
        waiting = list(self._anchors)
        while waiting:
            wish = waiting.pop()
            if not wish.matters:
                wish.matters = True
                waiting += [other for other, matters in wish.pulls if matters]

    def _minimize_impact(self) -> None:
        """Let nothing that does not matter stop what runs, or change what is queued."""
        for wish in [one for there in self._wishes.values() for one in there]:
            up = self._situation.active(wish.unit) in ("active", "reloading", "activating")
            queued = self._situation.queued(wish.unit)
            stops = wish.type is JobType.STOP and up
            if not wish.matters and (stops or (queued and merged(wish.type, queued) is None)):
                self._delete(wish)

    def _has(self, unit: str, job: JobType) -> bool:
        """Say whether *unit* has what *job* would do, and nothing is queued against it."""
        queued = self._situation.queued(unit)
        against = queued is not None and merged(job, queued) is None
        return is_redundant(job, self._situation.active(unit)) and not against

    def _drop_redundant(self) -> None:
        for unit, there in list(self._wishes.items()):
            if all(wish not in self._anchors and self._has(unit, wish.type) for wish in there):
                del self._wishes[unit]

    def _collect_garbage(self) -> None:
        """Let go of jobs that nobody calls for any more."""
        needed: set[int] = set()
        waiting = [one for one in self._anchors if one in self._wishes.get(one.unit, ())]
        while waiting:
            wish = waiting.pop()
            if id(wish) not in needed:
                needed.add(id(wish))
                waiting += [other for other, _ in wish.pulls if self._is_there(other)]
        for unit, there in list(self._wishes.items()):
            self._wishes[unit] = [wish for wish in there if id(wish) in needed]
            if not self._wishes[unit]:
                del self._wishes[unit]

    def _is_there(self, wish: _Wish) -> bool:
        return wish in self._wishes.get(wish.unit, ())

    def _delete(self, wish: _Wish) -> None:
        """Take a job out, with all that cannot be without it."""
        if not self._is_there(wish):
            return
        self._wishes[wish.unit].remove(wish)
        for there in list(self._wishes.values()):
            for other in list(there):
                if any(pulled is wish and matters for pulled, matters in other.pulls):
                    self._delete(other)

    def _as_one(self, unit: str) -> JobType | None:
        """Merge the jobs on a unit; ``None`` if they contradict each other."""
        found: JobType | None = JobType.NOP
        for wish in self._wishes[unit]:
            found = None if found is None else merged(found, wish.type)
            if found is JobType.RELOAD_OR_START:
                found = collapsed(found, self._situation.active(unit))
        return found

    # -- contradictions --------------------------------------------------------------------

    def _drop_one_of(self, unit: str) -> None:
        """Drop one of two jobs that contradict each other, if one does not matter."""
        there = self._wishes[unit]
        one, other = next(
            (a, b) for a in there for b in there if a is not b and merged(a.type, b.type) is None
        )
        if one.matters and other.matters:
            raise TransactionError(self._contradiction(unit))
        if one.matters or other.matters:
            dropped = other if one.matters else one
        else:
            stop, rest = (one, other) if one.type is JobType.STOP else (other, one)
            conflicted = any(self._situation.related(unit, Atom.PULL_IN_STOP_IGNORED))
            dropped = rest if conflicted else stop
        self._tell(unit, f"its {dropped.type.value} job is left out: another contradicts it")
        self._delete(dropped)

    def _contradiction(self, unit: str) -> str:
        """Say what cannot be: a conflict, if there is one, for all others follow from it."""
        for one in self._wishes:
            for other in self._situation.related(one, Atom.PULL_IN_STOP):
                if other in self._wishes and self._as_one(other) is None:
                    return f"{one} conflicts with {other}; leave one of them out"
        kinds = " and ".join(wish.type.value for wish in self._wishes[unit])
        return f"{unit} would have to {kinds} at once; leave out what asks for one of them"

    def _refuse_to_destroy(self, jobs: dict[str, JobType]) -> None:
        for unit, job in jobs.items():
            queued = self._situation.queued(unit)
            if queued is not None and merged(queued, job) is None:
                raise TransactionError(
                    f"{unit} has a {queued.value} job queued, and this would {job.value} it; wait "
                    "for that, or use job mode replace"
                )

    # -- order -----------------------------------------------------------------------------

    def _cycle(self) -> list[str] | None:
        """Find units with jobs here or queued that wait for each other, each before the next."""
        done: set[str] = set()
        for start in sorted(self._wishes):
            path: list[str] = []
            stack = [(start, iter(self._waits_for(start)))] if start not in done else []
            path += [start] if stack else []
            while stack:
                unit, others = stack[-1]
                following = next(others, None)
                if following is None:
                    done.add(unit)
                    stack.pop()
                    path.pop()
                elif following in path:
                    return path[path.index(following) :][::-1]
                elif following not in done:
                    path.append(following)
                    stack.append((following, iter(self._waits_for(following))))
        return None

    def _waits_for(self, unit: str) -> list[str]:
        return [
            other
            for other in sorted(self._situation.after(unit))
            if other in self._wishes or self._situation.queued(other) is not None
        ]

    def _break(self, cycle: list[str]) -> None:
        """Leave out the jobs of a unit that does not matter, so that the others can go on."""
        for unit in cycle:
            there = self._wishes.get(unit)
            if there and not any(wish.matters for wish in there):
                self._tell(unit, f"its job is left out: order is a circle, {_circle(cycle)}")
                for wish in list(there):
                    self._delete(wish)
                return
        raise TransactionError(
            f"the units wait for each other in a circle: {_circle(cycle)}; take away one of their "
            "After= or Before="
        )


def _circle(cycle: list[str]) -> str:
    return " before ".join([*cycle, cycle[0]])
