"""A run of the command line under chaos: a box with a controller of its own."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.loads import CHURNS, LOADS
from tests.chaos.parts import Parts, caught_shim
from tests.chaos.watched import Viewer, WatchedBox, see_all_gone
from tests.support.command_line import CommandLine, find_parts
from tests.support.peak import descendants

if TYPE_CHECKING:
    import random

    from tests.support.programs import Programs

__all__ = ["Run"]


class Run:
    """One load under ``kmem-harness run``, with a fault to come."""

    def __init__(self, fault: str, programs: Programs, chance: random.Random) -> None:
        """Prepare it; *chance* chooses what burns."""
        self.faults = [fault]
        self.directory = Path(tempfile.mkdtemp(prefix="kmem-chaos-"))
        self._command_line = CommandLine(self.directory)
        loads = {**LOADS, **CHURNS}
        load = loads[chance.choice(sorted(loads))]
        self.box = WatchedBox(fault, load, self.directory / "box", chance)
        self._command = self.box.command(programs)
        self._viewer: Viewer | None = None
        self._parts: Parts | None = None
        self._hit = 0.0

    def start(self) -> None:
        """Start it, and have it watched; an early fault comes now."""
        load, fault = self.box.load, self.box.fault
        # Interrupted as from outside: a terminal would reach all of us.
        self._process = self._command_line.start(
            self._command,
            *("--kernel", load.kernel, "--kinds", ",".join(load.kinds), "--pids-max", "200"),
            *("--kmem-limit", str(load.limit), "--events", str(self.box.events.path)),
            start_new_session=True,
        )
        self._family = [self._process.pid]
        if fault.early:
            with caught_shim(self._process) as shim:
                self._family += descendants(self._process.pid)
                self._hit = time.monotonic()
                if shim:
                    fault.inflict(shim)
                else:
                    self.faults = ["shim not caught"]
            if shim and not fault.reports:
                return
        found = asdict(find_parts(self._process))
        if fault.viewed:
            self._viewer = Viewer(self._command_line.environment())
            found["viewer"] = self._viewer.process.pid
        self._parts = Parts(**found, reader=self.box.events.reader)
        self.box.watch(self._parts)

    def begin(self) -> None:
        """Have it burn."""
        self.box.begin()

    def suffer(self) -> None:
        """Have the fault, if it has not come already, and see that it ends well."""
        fault = self.box.fault
        if self._parts:
            self._family += descendants(self._process.pid)
            if not fault.early:
                self._hit = self.box.suffer(self._parts, fault.inflict)
        outcome = self._command_line.finish(self._process)
        statuses = (*fault.statuses, 0) if self._parts else fault.statuses
        self.box.judge(outcome.status, outcome.report, statuses)
        assert outcome.report or not fault.reports, outcome
        ended = see_all_gone(
            self._family, [self.box], self._process.pid, self._command_line.leftovers
        )
        self.seconds = ended - max(self._hit, self.box.over() if outcome.status == 0 else 0)

    def clear(self) -> None:
        """End what a failed judgement may have left."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        if self._viewer:
            self._viewer.close()
        self.box.close()
        shutil.rmtree(self.directory, ignore_errors=True)
