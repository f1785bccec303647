"""What can happen to a run, as data: each fault, and what may still be expected after it.

Knows processes and signals; imports nothing of the package.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.chaos.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAULTS", "Fault"]

_OWN_FAILURE = 125
_KILLED = 128 + signal.SIGKILL
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Fault:
    """Do *inflict* to the parts of a run; it ends with one of *statuses*, its report written."""

    inflict: Callable[[Any], None]
    statuses: tuple[int, ...] = (0,)
    reports: bool = True
    #: Who suffers where one controller has many boxes: a "box" of them, or "all"; "run": it is not
    #: for such.
    whose: str = "all"
    #: Where its events go: a "file", the "device" or the "disk" that is full, a "pipe".
    events: str = "file"
    #: Whether ``top`` looks on.
    viewed: bool = False
    #: Whether it comes before the target is executed: *inflict* gets the shim, where it is caught.
    early: bool = False


def _send(part: str, number: int) -> Callable[[Parts], None]:
    return lambda parts: os.kill(getattr(parts, part), number)


def _pause(part: str) -> Callable[[Parts], None]:
    return lambda parts: _pause_process(getattr(parts, part))


def _pause_process(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(_PAUSE_SECONDS)  # the fault itself: so long is it stopped
    os.kill(pid, signal.SIGCONT)


def _nothing(_: Parts) -> None:
    """Leave it alone: its neighbours are what is tried."""


_KILL, _STOP, _INTERRUPT = signal.SIGKILL, signal.SIGSTOP, signal.SIGINT

#: A load whose time is up ends with 0.
FAULTS = {
    "nothing": Fault(_nothing, whose="box"),
    "controller killed": Fault(_send("controller", _KILL), (_OWN_FAILURE,)),
    "controller stopped": Fault(_pause("controller")),
    "guard killed": Fault(_send("guard", _KILL), (_KILLED,), whose="box"),
    "guard stopped": Fault(_pause("guard"), whose="box"),
    "init killed": Fault(_send("init", _KILL), (_KILLED,), whose="box"),
    "init stopped": Fault(_pause("init"), whose="box"),
    "owner killed": Fault(_send("cli", _KILL), (-_KILL,), reports=False),
    "owner stopped": Fault(_pause("cli")),
    "owner interrupted": Fault(
        _send("cli", _INTERRUPT), (128 + _INTERRUPT, _KILLED, 128 + signal.SIGTERM), whose="run"
    ),
    "descriptors taken away": Fault(Parts.take_descriptors),
    # It goes on where it needs no more than it has, and dies of it otherwise.
    "memory taken away": Fault(
        lambda parts: parts.take_memory(resource.RLIMIT_AS), (0, _OWN_FAILURE)
    ),
    "heap taken away": Fault(
        lambda parts: parts.take_memory(resource.RLIMIT_DATA), (0, _OWN_FAILURE)
    ),
    "device of the events full": Fault(_nothing, whose="box", events="device"),
    "disk of the events full": Fault(_nothing, whose="box", events="disk"),
    "event reader killed": Fault(_send("reader", _KILL), whose="box", events="pipe"),
    "event reader stopped": Fault(_send("reader", _STOP), whose="box", events="pipe"),
    "top killed": Fault(_send("viewer", _KILL), viewed=True),
    "top stopped": Fault(_send("viewer", _STOP), viewed=True),
    # Before its filter is taken over, the run fails, and there is nothing to report of.
    "shim killed": Fault(
        lambda shim: os.kill(shim, _KILL),
        (_OWN_FAILURE, _KILLED),
        reports=False,
        whose="run",
        early=True,
    ),
    "shim stopped": Fault(_pause_process, whose="run", early=True),
}
