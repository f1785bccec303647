"""Say how jobs go together and what one unit's job means for another: systemd's tables, as data.

Sources: job.c (merging, collapsing, what is redundant) and unit-dependency-atom.c (what each relation
stands for) of systemd 252, and systemd.unit(5). Knows no units; starts nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

__all__ = [
    "PROPAGATION",
    "Atom",
    "JobMode",
    "JobResult",
    "JobType",
    "Meaning",
    "collapsed",
    "is_redundant",
    "merged",
    "must_wait",
]


class JobType(Enum):
    """What a job does to its unit."""

    START = "start"
    VERIFY_ACTIVE = "verify-active"
    STOP = "stop"
    RELOAD = "reload"
    RESTART = "restart"
    NOP = "nop"
    # These three become one of the others by the state that the unit is in: see :func:`collapsed`.
    TRY_RESTART = "try-restart"
    TRY_RELOAD = "try-reload"
    RELOAD_OR_START = "reload-or-start"


class JobMode(Enum):
    """What becomes of jobs that are queued already, and of all other units."""

    REPLACE = "replace"
    FAIL = "fail"
    ISOLATE = "isolate"


class JobResult(Enum):
    """How a job ended."""

    DONE = "done"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    FAILED = "failed"
    DEPENDENCY = "dependency"
    SKIPPED = "skipped"
    INVALID = "invalid"
    ASSERT = "assert"


#: Jobs on one unit that can be one job. Those not listed contradict each other.
_MERGED = {
    frozenset((JobType.START, JobType.VERIFY_ACTIVE)): JobType.START,
    frozenset((JobType.START, JobType.RELOAD)): JobType.RELOAD_OR_START,
    frozenset((JobType.START, JobType.RESTART)): JobType.RESTART,
    frozenset((JobType.VERIFY_ACTIVE, JobType.RELOAD)): JobType.RELOAD,
    frozenset((JobType.VERIFY_ACTIVE, JobType.RESTART)): JobType.RESTART,
    frozenset((JobType.RELOAD, JobType.RESTART)): JobType.RESTART,
}
_DOWN = ("inactive", "failed", "deactivating")
#: Job: what it becomes where the unit is down, and where it is not.
_COLLAPSED = {
    JobType.TRY_RESTART: (JobType.NOP, JobType.RESTART),
    JobType.TRY_RELOAD: (JobType.NOP, JobType.RELOAD),
    JobType.RELOAD_OR_START: (JobType.START, JobType.RELOAD),
}
#: Job: the states in which there is nothing left for it to do. A restart always has.
_REDUNDANT = {
    JobType.START: ("active", "reloading"),
    JobType.VERIFY_ACTIVE: ("active", "reloading"),
    JobType.STOP: ("inactive", "failed"),
    JobType.RELOAD: ("reloading",),
    JobType.RESTART: (),
}


def merged(one: JobType, other: JobType) -> JobType | None:
    """Give the job that does what both do, ``None`` if they contradict each other."""
    if one is other or other is JobType.NOP:
        return one
    return other if one is JobType.NOP else _MERGED.get(frozenset((one, other)))


def collapsed(job: JobType, active: str) -> JobType:
    """Give what a conditional job comes to for a unit whose state is *active*."""
    down, up = _COLLAPSED.get(job, (job, job))
    return down if active in _DOWN else up


def is_redundant(job: JobType, active: str) -> bool:
    """Say whether a unit whose state is *active* has what the job would do."""
    return job is JobType.NOP or active in _REDUNDANT[job]


def must_wait(job: JobType, other: JobType, *, is_after: bool) -> bool:
    """Say whether *job* waits for *other*, of a unit that its own is (or is not) ordered after.

    Up in order, down in the opposite order, and who goes down goes before who comes up.
    """
    if JobType.NOP in (job, other):
        return False
    going_down = (JobType.STOP, JobType.RESTART)
    return job not in going_down if is_after else other in going_down


class Atom(Enum):
    """One thing that a relation between two units means, from the unit that has it to the other."""

    PULL_IN_START = auto()
    #: The other may fail, or not be there: it matters to nobody.
    PULL_IN_START_IGNORED = auto()
    PULL_IN_VERIFY = auto()
    PULL_IN_STOP = auto()
    PULL_IN_STOP_IGNORED = auto()
    PROPAGATE_STOP = auto()
    PROPAGATE_RESTART = auto()
    PROPAGATE_RELOAD = auto()
    PROPAGATE_START_FAILURE = auto()
    #: The start went well, and the unit is not active all the same: skipped, or over already.
    PROPAGATE_INACTIVE_START = auto()
    PROPAGATE_STOP_FAILURE = auto()
    #: Nobody asked for it to stop: the other stops, too.
    STOP_ON_UNEXPECTED_STOP = auto()
    CANNOT_BE_ACTIVE_WITHOUT = auto()
    #: The other keeps this one active.
    START_STEADILY = auto()
    #: As long as the other is not down, this one is needed.
    IS_NEEDED_BY = auto()
    ON_FAILURE = auto()
    ON_SUCCESS = auto()


class Meaning(NamedTuple):
    """What a relation means for the unit that names the other, and for the other."""

    here: tuple[Atom, ...] = ()
    there: tuple[Atom, ...] = ()


_WITH_IT = (Atom.PROPAGATE_STOP, Atom.PROPAGATE_RESTART)
_NEEDS_IT = (*_WITH_IT, Atom.PROPAGATE_START_FAILURE, Atom.IS_NEEDED_BY)
_STOPS_IT = (Atom.PROPAGATE_STOP, Atom.STOP_ON_UNEXPECTED_STOP)

#: Field of [Unit]: what it means. The whole of what one unit's jobs do to another's.
PROPAGATION: dict[str, Meaning] = {
    "requires": Meaning((Atom.PULL_IN_START,), _NEEDS_IT),
    "requisite": Meaning((Atom.PULL_IN_VERIFY,), (*_NEEDS_IT, Atom.PROPAGATE_INACTIVE_START)),
    "wants": Meaning((Atom.PULL_IN_START_IGNORED,), (Atom.IS_NEEDED_BY,)),
    "binds_to": Meaning(
        (Atom.PULL_IN_START, Atom.CANNOT_BE_ACTIVE_WITHOUT),
        (*_NEEDS_IT, Atom.STOP_ON_UNEXPECTED_STOP),
    ),
    "part_of": Meaning((), _WITH_IT),
    "upholds": Meaning((Atom.PULL_IN_START_IGNORED,), (Atom.START_STEADILY, Atom.IS_NEEDED_BY)),
    "conflicts": Meaning(
        (Atom.PULL_IN_STOP,), (Atom.PULL_IN_STOP_IGNORED, Atom.PROPAGATE_STOP_FAILURE)
    ),
    "propagates_stop_to": Meaning(_STOPS_IT),
    "stop_propagated_from": Meaning((), _STOPS_IT),
    "propagates_reload_to": Meaning((Atom.PROPAGATE_RELOAD,)),
    "reload_propagated_from": Meaning((), (Atom.PROPAGATE_RELOAD,)),
    "on_failure": Meaning((Atom.ON_FAILURE,)),
    "on_success": Meaning((Atom.ON_SUCCESS,)),
}
