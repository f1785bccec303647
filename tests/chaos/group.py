"""Many boxes of one controller under chaos: each has a fault of its own, and one is for all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.faults import FAULTS
from tests.chaos.loads import CHURNS, LOADS
from tests.chaos.parts import Parts
from tests.chaos.watched import Viewer, WatchedBox, see_all_gone
from tests.support.command_line import CommandLine
from tests.support.peak import descendants

if TYPE_CHECKING:
    import random

    from tests.support.programs import Programs

__all__ = ["Group"]

_PATIENCE_SECONDS = 60


class Group:
    """A process with a harness and a box for each of *own* faults; *shared* comes to all of them."""

    def __init__(
        self, own: list[str], shared: str, programs: Programs, chance: random.Random
    ) -> None:
        """Prepare it; *chance* chooses what burns: tasks alone, or objects of many kinds."""
        self.faults = [*own, shared]
        self.directory = Path(tempfile.mkdtemp(prefix="kmem-chaos-"))
        self._command_line = CommandLine(self.directory)
        self._shared = FAULTS[shared]
        loads = chance.choice([LOADS, CHURNS])
        self._kernel = next(iter(loads.values())).kernel
        self.boxes = [
            WatchedBox(
                fault, loads[chance.choice(sorted(loads))], self.directory / str(number), chance
            )
            for number, fault in enumerate(own)
        ]
        self._commands = [box.command(programs) for box in self.boxes]
        self._shared_after_seconds = chance.uniform(0.3, 1.0)
        self._viewer: Viewer | None = None
        self._parts: list[Parts] = []

    def start(self) -> None:
        """Start it, and have each box watched."""
        orders = {
            "kernel": self._kernel,
            "boxes": [
                {
                    "command": command,
                    "kmem_limit": box.load.limit,
                    "kinds": box.load.kinds,
                    "events": str(box.events.path),
                    "report": str(self._report(number)),
                }
                for number, (box, command) in enumerate(
                    zip(self.boxes, self._commands, strict=True)
                )
            ],
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.owner", json.dumps(orders)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self._command_line.environment(),
        )
        assert self._process.stdout is not None
        found = json.loads(self._process.stdout.readline())
        if self._shared.viewed:
            self._viewer = Viewer(self._command_line.environment())
        self._parts = [
            Parts(
                self._process.pid,
                found["controller"],
                *pids,
                reader=box.events.reader,
                viewer=self._viewer.process.pid if self._viewer else 0,
            )
            for pids, box in zip(found["boxes"], self.boxes, strict=True)
        ]
        for box, parts in zip(self.boxes, self._parts, strict=True):
            box.watch(parts)

    def begin(self) -> None:
        """Have all burn."""
        for box in self.boxes:
            box.begin()

    def suffer(self) -> None:
        """Have all faults, and see that each box ends well."""
        family = [self._process.pid, *descendants(self._process.pid)]
        with ThreadPoolExecutor(len(self.boxes) + 1) as threads:
            hits = [
                threads.submit(box.suffer, parts, box.fault.inflict)
                for box, parts in zip(self.boxes, self._parts, strict=True)
            ]
            hits.append(threads.submit(self._suffer_together))
            hit = max(one.result() for one in hits)
        status = self._process.wait(_PATIENCE_SECONDS)
        if self._shared.reports:
            assert status == 0
        else:
            assert status in self._shared.statuses
        for number, box in enumerate(self.boxes):
            report = self._read_report(number)
            assert report or not self._shared.reports
            statuses = (*box.fault.statuses, *self._shared.statuses, 0)
            box.judge(report.get("status", 0), report, statuses)
        ended = see_all_gone(family, self.boxes, self._process.pid, self._command_line.leftovers)
        self.seconds = ended - max(hit, *(box.over() for box in self.boxes))

    def clear(self) -> None:
        """End what a failed judgement may have left."""
        self._process.kill()
        self._process.wait()
        if self._viewer:
            self._viewer.close()
        for box in self.boxes:
            box.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _suffer_together(self) -> float:
        time.sleep(self._shared_after_seconds)
        self._shared.inflict(self._parts[0])
        return time.monotonic()

    def _report(self, number: int) -> Path:
        return self.directory / f"report-{number}.json"

    def _read_report(self, number: int) -> dict[str, Any]:
        path = self._report(number)
        report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return report
