"""Measure the most tasks there were inside a box, by the best instrument the user may have.

Tasks inside are those the box's target made, which are the ones that are charged: not the box's own
init, not the target itself, not the harness.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.command_line import CommandLine, Outcome, find_parts
from tests.support.peak import NamespacePeak, PidsCgroup, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["BoxPeak", "measure_box", "tasks_around_box"]

#: Init and target.
_NOT_CHARGED_IN_BOX = 2
#: More than any limit of these tests admits; the kernel holds the bomb here if the harness fails.
BACKSTOP = 400


@dataclass(frozen=True)
class BoxPeak:
    """One run and what was seen of it. Units: tasks that the target made, or their descendants."""

    outcome: Outcome
    by_kernel: int | None  # exact; None for an ordinary user
    by_scan: int  # a lower bound
    has_namespace: bool

    @property
    def most(self) -> int:
        """The largest number that is certain."""
        return max(self.by_scan, self.by_kernel or 0)

    @property
    def is_sure(self) -> bool:
        """Whether hardly a task can have been missed."""
        return self.by_kernel is not None or self.has_namespace


def tasks_around_box(command_line: CommandLine) -> int:
    """Count the tasks of a run whose target makes none: the harness, init and the target itself.

    Needs: a pids cgroup.
    """
    with PidsCgroup(BACKSTOP) as cgroup:
        target = ["sh", "-c", "echo ready; exec sleep 0.3"]
        process = command_line.start(target, "--kmem-limit", "1M", within=cgroup)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        around = cgroup.current
        command_line.finish(process)
        # Were there more at another time, their number would hide as many tasks of a bomb. One more
        # there was before the target began, the leader of its process group: it hides none.
        assert cgroup.peak <= around + 1
        return around


def measure_box(
    command_line: CommandLine,
    command: Sequence[str],
    *options: str,
    around: int | None,
    begin: Path | None = None,
) -> BoxPeak:
    """Run *command* in a box and count its tasks from outside.

    *around* is what ``tasks_around_box`` gave, ``None`` for a user who may not have a pids cgroup;
    then the box has RLIMIT_NPROC as its backstop. *begin* is a file that is made once all is seen.
    """
    with nullcontext() if around is None else PidsCgroup(BACKSTOP + around) as cgroup:
        backstop = ["--pids-max", str(BACKSTOP)] if cgroup is None else []
        process = command_line.start(command, *options, *backstop, within=cgroup)
        parts = find_parts(process)
        has_namespace = parts.has_namespace
        where = {"init" if has_namespace else "root": parts.init}
        with NamespacePeak(**where) as watch:
            if begin is not None:
                begin.touch()
            outcome = command_line.finish(process)
        by_kernel = None
        if cgroup is not None and around is not None:
            by_kernel = cgroup.peak - around
            until(lambda: cgroup.current == 0, 2, "tasks of the run are left in its cgroup")
    by_scan = watch.stop().peak - _NOT_CHARGED_IN_BOX
    return BoxPeak(outcome, by_kernel, by_scan, has_namespace)
