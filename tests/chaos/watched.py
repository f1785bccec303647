"""One box under chaos: what burns in it, what happens to it, and how it must have ended.

Knows the report's promises and what can be seen from outside; imports nothing of the package.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.chaos.events import Events
from tests.chaos.faults import FAULTS
from tests.chaos.loads import OBJECTS, SECONDS
from tests.support.leftovers import PidNamespace, cgroups_of, lives
from tests.support.peak import Peak, until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.chaos.loads import Load
    from tests.chaos.parts import Parts
    from tests.support.programs import Programs

__all__ = ["GONE_SECONDS", "Viewer", "WatchedBox", "see_all_gone"]

#: Longer than that after its fault, or its load's own end, nothing may last.
GONE_SECONDS = 5.0


class WatchedBox:
    """A box with a load, a fault to come, and somebody who counts what it really has."""

    def __init__(self, fault: str, load: Load, directory: Path, chance: random.Random) -> None:
        """Prepare it, with all it needs in *directory*."""
        self.fault = FAULTS[fault]
        self.load = load
        self._names = directory / "names"
        self._names.mkdir(parents=True)
        self._begin = directory / "begin"
        self.events = Events(self.fault.events, directory)
        self._after_seconds = chance.uniform(0.05, SECONDS / 2)
        self._watch: Peak | None = None
        self._namespace: PidNamespace | None = None

    def command(self, programs: Programs) -> list[str]:
        """Give what runs in it, to burn when told to."""
        return self.load.begun_by(self._begin, programs, self._names)

    def watch(self, parts: Parts) -> None:
        """Count from now on."""
        self._namespace = PidNamespace(parts.init) if parts.has_namespace else None
        self._watch = self.load.watch(parts, self._names)
        self._watch.__enter__()

    def begin(self) -> None:
        """Have it burn."""
        self._begin.touch()

    def over(self) -> float:
        """Say when its load was over by itself, on the clock of ``time.monotonic``."""
        ago = time.time() - self._begin.stat().st_mtime
        return time.monotonic() - ago + SECONDS

    def suffer(self, parts: Parts, inflict: Callable[[Parts], None]) -> float:
        """Let it burn a moment, and have a fault; say when that was."""
        time.sleep(self._after_seconds)
        with suppress(ProcessLookupError):  # on a busy machine it may be over
            inflict(parts)
        return time.monotonic()

    def judge(self, status: int, report: dict[str, Any], statuses: Iterable[int]) -> None:
        """See that it ended well: within its limit, as it had to, with its books balanced."""
        assert status in statuses, (status, report)
        if self._watch:
            reading = self._watch.stop()
            seen = self.load.kinds, self.fault, reading, report
            assert reading.peak - self.load.beside <= OBJECTS, seen
        if report:
            kmem = report["memcg"]["kmem"]
            assert kmem["max_usage"] <= kmem["limit"]
            if not report["controller_died"]:
                assert kmem["usage"] == 0
                assert all(kind["live"] == 0 for kind in report["kinds"].values())
            self.events.judge(report)

    def is_gone(self) -> bool:
        """Whether nothing runs in it."""
        return self._namespace is None or self._namespace.is_empty()

    def close(self) -> None:
        """Take away what it needed."""
        if self._watch:
            self._watch.stop()
        if self._namespace:
            self._namespace.close()
        self.events.close()


class Viewer:
    """``top``, looking on ten times a second; what it says is read by nobody."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start it, where the harness of *environment* is found."""
        words = [sys.executable, "-m", "kmem_harness", "top", "--json", "--interval", "0.1"]
        self.process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        """End it, stopped or not."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def see_all_gone(
    family: list[int], boxes: list[WatchedBox], owner: int, leftovers: Callable[[], list[str]]
) -> float:
    """See that nothing is left of a run; say when that was so."""
    until(lambda: not any(map(lives, family)), GONE_SECONDS, "processes are left")
    until(lambda: all(box.is_gone() for box in boxes), GONE_SECONDS, "tasks of a box are left")
    until(lambda: not leftovers(), GONE_SECONDS, "files are left")
    until(lambda: not cgroups_of(owner), GONE_SECONDS, "a cgroup is left")
    return time.monotonic()
