"""Queue jobs, run them in order, and act on what becomes of units. Knows no services.

At most one job a unit. What a request comes to is ``transaction.py``'s, what units do to each other the
table's in ``rules.py``. Source: job.c and unit.c (unit_notify) of systemd 252.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from kmem_harness.services.engine.rules import (
    Atom,
    JobMode,
    JobResult,
    JobType,
    merged,
    must_wait,
)
from kmem_harness.services.engine.transaction import TransactionError, transaction_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kmem_harness.services.engine.relations import Relations

__all__ = ["Job", "Jobs", "Pending", "Subject"]

_UP = ("active", "reloading")
_OVER = ("inactive", "failed")
_DOWN = (*_OVER, "deactivating")
#: How often a unit is started or stopped for a rule that always holds. Units: seconds.
#: Source: auto_start_stop_ratelimit.
_STEADY_INTERVAL, _STEADY_BURST = 10.0, 16
_STEADY_ATOMS = (Atom.START_STEADILY, Atom.CANNOT_BE_ACTIVE_WITHOUT, Atom.IS_NEEDED_BY)
_LEFT_ALONE = "what it is bound to is not active"


class Pending(Enum):
    """What a unit says that has not done at once what a job asks for."""

    #: Its states will tell.
    UNDER_WAY = auto()
    #: It cannot now; ask again when its state has changed.
    AGAIN = auto()


class Subject(Protocol):
    """A unit, as jobs see it."""

    @property
    def active(self) -> str:
        """Its state: active, reloading, inactive, failed, activating or deactivating."""

    @property
    def why_no_reload(self) -> str:
        """Why it cannot be reloaded, or nothing."""

    def start(self) -> JobResult | Pending:
        """Begin to start."""

    def stop(self) -> JobResult | Pending:
        """Begin to stop."""

    def reload(self) -> JobResult | Pending:
        """Begin to reload."""


@dataclass(eq=False)
class Job:
    """One job of one unit."""

    unit: str
    type: JobType
    running: bool = False
    done: asyncio.Future[JobResult] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Jobs:
    """The jobs of one run of units."""

    def __init__(self, relations: Relations, tell: Callable[[str, str], None]) -> None:
        """Prepare for the units of *relations*, none of which is known yet; *tell* takes words."""
        self.relations = relations
        self.subjects: dict[str, Subject] = {}
        #: Whether units still act on each other: not once everything is to stop.
        self.propagates = True
        self._jobs: dict[str, Job] = {}
        self._tell = tell
        self._finished: Callable[[str, JobType, JobResult], None] = lambda *_: None
        self._settled: Callable[[], None] = lambda: None
        self._kicked = False
        self._steadied: dict[str, deque[float]] = {}
        #: Units of which something has happened by which a rule may not hold: looked at once.
        self._doubtful: set[str] = set()

    def watch(
        self,
        finished: Callable[[str, JobType, JobResult], None],
        settled: Callable[[], None],
    ) -> None:
        """Have every end of a job told, and each time that there is nothing left to run."""
        self._finished, self._settled = finished, settled

    # -- what a transaction asks: transaction.Situation ------------------------------------

    def active(self, unit: str) -> str:
        """Give the state of a unit."""
        return self.subjects[unit].active

    def queued(self, unit: str) -> JobType | None:
        """Give the job that a unit has."""
        job = self._jobs.get(unit)
        return None if job is None else job.type

    def related(self, unit: str, atom: Atom) -> Iterable[str]:
        """List the units that *unit* has *atom* towards."""
        return self.relations.towards(unit, atom)

    def after(self, unit: str) -> set[str]:
        """List the units that *unit* is ordered after."""
        return self.relations.after[unit]

    def why_not(self, unit: str, job: JobType) -> str:
        """Say why a unit cannot have such a job, or nothing."""
        return self.subjects[unit].why_no_reload if job is JobType.RELOAD else ""

    def isolated(self) -> Iterable[str]:
        """List the units that do not survive another one's isolation."""
        return [unit for unit in self.subjects if unit not in self.relations.stays]

    # -- asking ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no job is queued or running."""
        return not self._jobs

    def add(
        self, job: JobType, units: Iterable[str], mode: JobMode = JobMode.REPLACE
    ) -> dict[str, Job]:
        """Queue a job for each of *units*, with all that it calls for; give those there are, by unit.

        A unit that has what is asked for needs no job.

        Raises: TransactionError, and nothing is queued then.
        """
        found = transaction_for(self, [(job, unit) for unit in units], mode, self._tell)
        if mode is JobMode.ISOLATE:
            for unit in [one for one in self._jobs if one not in found]:
                self._finish(self._jobs[unit], JobResult.CANCELED, propagate=False)
        for unit, kind in found.items():
            self._install(unit, kind)
        self._kick()
        return {unit: self._jobs[unit] for unit in found}

    def _install(self, unit: str, kind: JobType) -> None:
        there = self._jobs.get(unit)
        together = None if there is None else merged(there.type, kind)
        if there is None or together is None:
            if there is not None:
                self._finish(there, JobResult.CANCELED, propagate=False)
            self._jobs[unit] = job = Job(unit, kind)
            self._arm(job, self.relations.job_timeouts.get(unit, math.inf))
            return
        if there.running and (together is not there.type or kind is JobType.RELOAD):
            there.running = False  # begins anew, as what both are
        there.type = together

    def _arm(self, job: Job, seconds: float) -> None:
        if seconds < math.inf:
            loop = asyncio.get_running_loop()
            job.timers.append(loop.call_later(seconds, self._time_out, job))

    def _time_out(self, job: Job) -> None:
        if self._jobs.get(job.unit) is job:
            self._tell(job.unit, f"its {job.type.value} job timed out")
            self._finish(job, JobResult.TIMEOUT)

    # -- running ---------------------------------------------------------------------------

    def _kick(self) -> None:
        """Have the queue looked at, once all that happens now has happened."""
        if not self._kicked:
            self._kicked = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._kicked = False
        tried: set[int] = set()
        while True:
            waiting = sorted(
                (job for job in self._jobs.values() if not job.running and id(job) not in tried),
                key=lambda job: self.relations.priority[job.unit],
            )
            job = next((one for one in waiting if not self._waits(one)), None)
            if job is None:
                break
            tried.add(id(job))
            self._perform(job)
        if self.propagates:
            self._keep_steady()
        self._settled()

    def _waits(self, job: Job) -> bool:
        """Say whether a job has to wait for another unit's."""
        mine = self.relations.after[job.unit]
        if job.type is JobType.START and any(
            self.queued(one) is JobType.VERIFY_ACTIVE and job.unit not in self.relations.after[one]
            for one in self.related(job.unit, Atom.PULL_IN_VERIFY)
        ):
            return True  # without an order, too: who depends on it shall not have begun
        return any(
            must_wait(job.type, other.type, is_after=is_after)
            for other in self._jobs.values()
            for is_after in (True, False)
            if (other.unit in mine if is_after else job.unit in self.relations.after[other.unit])
        )

    def _perform(self, job: Job) -> None:
        subject = self.subjects[job.unit]
        job.running = True
        self._arm(job, self.relations.job_running_timeouts.get(job.unit, math.inf))
        answer: JobResult | Pending
        if job.type is JobType.VERIFY_ACTIVE:
            answer = JobResult.DONE if subject.active in _UP else JobResult.SKIPPED
            answer = Pending.AGAIN if subject.active == "activating" else answer
        elif job.type is JobType.START:
            answer = self._start(job.unit, subject)
        elif job.type is JobType.RELOAD:
            answer = subject.reload()
        else:
            answer = JobResult.DONE if subject.active in _OVER else subject.stop()
        if self._jobs.get(job.unit) is not job or not job.running:
            return  # the unit's states have told meanwhile
        if answer is Pending.AGAIN:
            job.running = False
        elif isinstance(answer, JobResult):
            self._finish(job, answer)

    def _start(self, unit: str, subject: Subject) -> JobResult | Pending:
        if subject.active in _UP:
            return JobResult.DONE
        for other in self.related(unit, Atom.CANNOT_BE_ACTIVE_WITHOUT):
            if other in self.relations.after[unit] and self.active(other) not in _UP:
                self._tell(unit, f"not started: {other}, which it is bound to, is not active")
                return JobResult.DEPENDENCY
        return subject.start()

    # -- what becomes of units -------------------------------------------------------------

    def notify(
        self,
        unit: str,
        before: str,
        now: str,
        *,
        will_restart: bool = False,
        reload_failed: bool = False,
    ) -> None:
        """Learn of another state of a unit: jobs end by it, and others act on it."""
        job = self._jobs.get(unit)
        unexpected = job is None or self._job_sees(job, now, reload_failed=reload_failed)
        if self.propagates:
            was_up = before in (*_UP, "activating")
            if unexpected and was_up and now in _DOWN:
                bound = self.related(unit, Atom.STOP_ON_UNEXPECTED_STOP)
                up = [
                    one for one in bound if one in self.subjects and self.active(one) not in _DOWN
                ]
                self._ask(JobType.STOP, up)
            if now != before and not will_restart:
                self._trigger(unit, before, now)
            if now != before:
                self._doubt(unit)
        self._kick()

    def _job_sees(self, job: Job, now: str, *, reload_failed: bool) -> bool:
        """End a job by its unit's state; say whether that state is not what it asked for."""
        failed = JobResult.FAILED if now == "failed" else JobResult.DONE
        up_again = JobResult.FAILED if reload_failed else JobResult.DONE
        ends, awaited, over = {
            JobType.START: (_UP, ("activating",), failed),
            JobType.VERIFY_ACTIVE: (_UP, ("activating",), failed),
            JobType.RELOAD: (("active",), ("activating", "reloading"), failed),
            JobType.STOP: (_OVER, ("deactivating",), JobResult.FAILED),
            JobType.RESTART: (_OVER, ("deactivating",), JobResult.FAILED),
        }[job.type]
        if now in ends and (job.running or job.type is not JobType.RELOAD):
            self._finish(job, up_again if job.type is JobType.RELOAD else JobResult.DONE)
            return False
        if not job.running or now in awaited:
            return False
        if now in _OVER or job.type in (JobType.STOP, JobType.RESTART):
            self._finish(job, over)
        return True

    def _trigger(self, unit: str, before: str, now: str) -> None:
        if now == "failed":
            self._react(unit, Atom.ON_FAILURE)
        elif now == "inactive" and before not in _OVER:
            self._react(unit, Atom.ON_SUCCESS)

    def _doubt(self, unit: str) -> None:
        """Have it looked at whether *unit*, and those that a rule ties to it, are as they should be."""
        self._doubtful.add(unit)
        self._doubtful.update(
            one
            for one in self.subjects
            if any(unit in self.related(one, atom) for atom in _STEADY_ATOMS)
        )

    def _react(self, unit: str, atom: Atom) -> None:
        others = list(self.related(unit, atom))
        mode = self.relations.reaction_mode(unit, atom)
        for other in others[:1] if mode is JobMode.ISOLATE else others:
            self._ask(JobType.START, [other], mode)

    def _ask(self, job: JobType, units: Iterable[str], mode: JobMode = JobMode.REPLACE) -> None:
        """Ask for jobs of ourselves; what cannot be is told, and nothing else comes of it."""
        for unit in units:
            if unit in self.subjects:
                try:
                    self.add(job, [unit], mode)
                except TransactionError as error:
                    self._tell(unit, str(error))

    def _finish(self, job: Job, result: JobResult, *, propagate: bool = True) -> None:
        unit, kind = job.unit, job.type
        if kind is JobType.RESTART and result is JobResult.DONE:
            job.type, job.running = JobType.START, False  # it is down; now up
            self._kick()
            return
        del self._jobs[unit]
        for timer in job.timers:
            timer.cancel()
        self._finished(unit, kind, result)
        if not job.done.done():
            job.done.set_result(result)
        if propagate:
            self._fail_dependent(unit, kind, result)
            if result in (JobResult.TIMEOUT, JobResult.DEPENDENCY) and self.propagates:
                self._react(unit, Atom.ON_FAILURE)
        self._kick()

    def _fail_dependent(self, unit: str, kind: JobType, result: JobResult) -> None:
        """End the start jobs of those that cannot be without what *unit* did not come to."""
        starts = kind in (JobType.START, JobType.VERIFY_ACTIVE)
        if result is not JobResult.DONE and starts:
            atom = Atom.PROPAGATE_START_FAILURE
        elif result is not JobResult.DONE and kind is JobType.STOP:
            atom = Atom.PROPAGATE_STOP_FAILURE
        elif kind in (JobType.START, JobType.RELOAD) and self.active(unit) not in _UP:
            atom = Atom.PROPAGATE_INACTIVE_START
        else:
            return
        for other in self.related(unit, atom):
            job = self._jobs.get(other)
            if job is not None and job.type in (JobType.START, JobType.VERIFY_ACTIVE):
                how = {JobResult.DONE: "is not active", JobResult.SKIPPED: "is not active"}
                words = how.get(result, "failed")
                self._tell(other, f"not started: {unit}, which it requires, {words}")
                self._finish(job, JobResult.DEPENDENCY)

    # -- rules that always hold ------------------------------------------------------------

    def _keep_steady(self) -> None:
        """Start what an active unit upholds, stop what nobody needs, or what is not without another."""
        rules = (
            (_OVER, self._is_upheld, JobType.START, "an active unit upholds it", JobMode.REPLACE),
            (_UP, self._is_left_alone, JobType.STOP, _LEFT_ALONE, JobMode.REPLACE),
            (_UP, self._is_unneeded, JobType.STOP, "no unit needs it any more", JobMode.FAIL),
        )
        # In systemd's order: what is upheld is needed by then.
        for states, holds, job, why, mode in rules:
            for unit, subject in self.subjects.items():
                doubtful = unit in self._doubtful and unit not in self._jobs
                if doubtful and subject.active in states and holds(unit):
                    self._steadily(unit, job, why, mode)
        self._doubtful.clear()

    def _is_upheld(self, unit: str) -> bool:
        return any(
            self.active(other) in _UP and other not in self._jobs
            for other in self.related(unit, Atom.START_STEADILY)
        )

    def _is_unneeded(self, unit: str) -> bool:
        return unit in self.relations.stop_when_unneeded and not any(
            other in self._jobs or self.active(other) not in _OVER
            for other in self.related(unit, Atom.IS_NEEDED_BY)
        )

    def _is_left_alone(self, unit: str) -> bool:
        return any(
            other not in self._jobs and self.active(other) in _OVER
            for other in self.related(unit, Atom.CANNOT_BE_ACTIVE_WITHOUT)
        )

    def _steadily(self, unit: str, job: JobType, why: str, mode: JobMode) -> None:
        now = asyncio.get_running_loop().time()
        times = self._steadied.setdefault(unit, deque(maxlen=_STEADY_BURST))
        if len(times) == _STEADY_BURST and now - times[0] < _STEADY_INTERVAL:
            return
        times.append(now)
        if len(times) == _STEADY_BURST and now - times[0] < _STEADY_INTERVAL:
            self._tell(unit, f"{why}, and it is left as it is: that was so too often just now")
            return
        self._ask(job, [unit], mode)
