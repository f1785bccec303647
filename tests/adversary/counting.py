"""Count from outside what an adversary really has at once, by kind. Knows nothing of who they are.

A further kind is one more function here: it runs a command under a limit for so many objects, and
says how many there were, by an instrument that does not ask the harness.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.box_peak import measure_box
from tests.support.command_line import find_parts
from tests.support.peak import PidsCgroup, descendants, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.command_line import CommandLine, Outcome

__all__ = ["COUNTERS", "Counted"]

#: Bytes of a task in the profile v4, the simplest arithmetic there is.
_STACK = 8192
#: As simple, for a pipe; and what bounds its makers if all else fails.
_PIPE = 8192
_PIPES = """\
base = "5.10"
[kinds.pipe]
nbytes = 8192
errno = "ENFILE"
source = { assumed = "two pages, for simple arithmetic" }
"""
_MOST_THREADS = 10_500
_STANDARD = ("0", "1", "2")


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


def _pipes(
    command_line: CommandLine,
    command: Sequence[str],
    limit: int,
    options: Sequence[str],
    around: int | None,
) -> Counted:
    """Count the pipes in the descriptor tables of all there is below the box's init at first."""
    begin = command_line.directory / "begin"
    costs = command_line.directory / "pipes.toml"
    costs.write_text(_PIPES)
    priced = ["--costs", str(costs), "--kinds", "pipe", "--kmem-limit", str(limit * _PIPE)]
    most = 0
    with nullcontext() if around is None else PidsCgroup(_MOST_THREADS) as cgroup:
        backstop = ["--pids-max", str(_MOST_THREADS)] if cgroup is None else []
        process = command_line.start(
            ["env", f"SIEGE_BEGINS={begin}", *command],
            *(*priced, *options, *backstop),
            within=cgroup,
        )
        # Those that are to make them, before there are thousands of threads to look through.
        init = find_parts(process).init
        until(lambda: bool(descendants(init)), 10, "nobody is in the box")
        makers = descendants(init)
        over = threading.Event()

        def look() -> None:
            nonlocal most
            while not over.wait(0.002):
                most = max(most, len(_pipes_of(makers)))

        looking = threading.Thread(target=look)
        looking.start()
        begin.touch()
        outcome = command_line.finish(process)
        over.set()
        looking.join()
    return Counted(outcome, most, _PIPE)


def _pipes_of(pids: Sequence[int]) -> set[str]:
    """Find the pipes that *pids* hold, but for those that are somebody's standard files."""
    found: set[str] = set()
    standard: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    link = str(descriptor.readlink())
                    if link.startswith("pipe:"):
                        (standard if descriptor.name in _STANDARD else found).add(link)
    return found - standard


#: By the name of what is made.
COUNTERS: dict[str, Callable[..., Counted]] = {"task": _tasks, "pipe": _pipes}
