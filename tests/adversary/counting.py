"""Count from outside what an adversary really has at once, by kind. Knows nothing of who they are.

A further kind is one more function here: it runs a command under a limit for so many objects, and
says how many there were, by an instrument that does not ask the harness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.box_peak import measure_box

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.command_line import CommandLine, Outcome

__all__ = ["COUNTERS", "Counted"]

#: Bytes of a task in the profile v4, the simplest arithmetic there is.
_STACK = 8192


@dataclass(frozen=True)
class Counted:
    """A run, the most objects there were at once, and the bytes of one."""

    outcome: Outcome
    most: int
    each: int


def _tasks(
    command_line: CommandLine,
    command: Sequence[str],
    limit: int,
    options: Sequence[str],
    around: int | None,
) -> Counted:
    begin = command_line.directory / "begin"
    command = ["env", f"SIEGE_BEGINS={begin}", *command]
    options = ["--kernel", "v4", "--kmem-limit", str(limit * _STACK), *options]
    measured = measure_box(command_line, command, *options, around=around, begin=begin)
    return Counted(measured.outcome, measured.most, _STACK)


#: By the name of what is made.
COUNTERS: dict[str, Callable[..., Counted]] = {"task": _tasks}
