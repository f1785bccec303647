"""What can happen to a run, as data: each fault, and what may still be expected after it.

Knows processes and signals; imports nothing of the package.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.descriptors import nr_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command_line import Parts

__all__ = ["FAULTS", "Fault"]

_OWN_FAILURE = 125
_KILLED = 128 + signal.SIGKILL
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Fault:
    """Do *inflict* to the parts of a run; it ends with one of *statuses*, its report written."""

    inflict: Callable[[Parts], None]
    statuses: tuple[int, ...]
    reports: bool = True
    #: Where its events go; a name under /dev, or none.
    events: str | None = None


def _send(part: str, number: int) -> Callable[[Parts], None]:
    return lambda parts: os.kill(getattr(parts, part), number)


def _pause(part: str) -> Callable[[Parts], None]:
    def inflict(parts: Parts) -> None:
        os.kill(getattr(parts, part), signal.SIGSTOP)
        time.sleep(_PAUSE_SECONDS)  # the fault itself: so long is it stopped
        os.kill(getattr(parts, part), signal.SIGCONT)

    return inflict


def _take_descriptors(parts: Parts) -> None:
    _, hard = resource.prlimit(parts.controller, resource.RLIMIT_NOFILE)
    few = (nr_descriptors(parts.controller) + 4, hard)
    resource.prlimit(parts.controller, resource.RLIMIT_NOFILE, few)


def _nothing(_: Parts) -> None:
    """Leave it alone: its neighbours are what is tried."""


#: A bomb whose time is up ends with 0.
FAULTS = {
    "nothing": Fault(_nothing, (0,)),
    "controller killed": Fault(_send("controller", signal.SIGKILL), (_OWN_FAILURE,)),
    "controller stopped": Fault(_pause("controller"), (0,)),
    "guard killed": Fault(_send("guard", signal.SIGKILL), (_OWN_FAILURE, _KILLED)),
    "guard stopped": Fault(_pause("guard"), (0,)),
    "init killed": Fault(_send("init", signal.SIGKILL), (_OWN_FAILURE, _KILLED)),
    "init stopped": Fault(_pause("init"), (0,)),
    "command line killed": Fault(_send("cli", signal.SIGKILL), (-signal.SIGKILL,), reports=False),
    "command line stopped": Fault(_pause("cli"), (0,)),
    "command line interrupted": Fault(
        _send("cli", signal.SIGINT), (128 + signal.SIGINT, _KILLED, 128 + signal.SIGTERM, 0)
    ),
    "disk of the events full": Fault(_nothing, (0,), events="full"),
    "descriptors taken away": Fault(_take_descriptors, (0,)),
}
