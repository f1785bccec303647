"""Run the soak: boxes that call without end beside boxes that come and go, and what is seen of it.

Knows boxes and procfs; judges nothing.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness import Harness
from tests.soak.windows import Window, parse_window
from tests.support.descriptors import nr_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.box import Box

__all__ = ["Sample", "Soak", "soak"]

#: The boxes that go on: one has room, one is full again and again.
BOXES = (
    {"memcg": "/soak/roomy", "kmem_limit": "64M"},
    {"memcg": "/soak/tight", "kmem_limit": "192K"},
)
_SPAN = "/soak"
_MOST_SECONDS = 4 * 3600


@dataclass(frozen=True)
class Sample:
    """The controller at one moment. Units: seconds from the begin, bytes."""

    seconds: float
    resident: int
    descriptors: int
    own_resident: int  # of the process that runs the boxes


@dataclass
class Soak:
    """Everything that was seen.

    Shape: ``windows`` and ``samples`` in order of time, the first before, and the last
    after the boxes that go on; ``reports`` of the boxes that went on;
    ``passing`` counts the boxes that came and went, ``failures`` tells of those that ended badly.
    """

    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    passing: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """How many calls the boxes that went on have made, by their own count."""
        return sum(window.calls for window in self.windows)

    def look(self, controller: int, seconds: float) -> None:
        """Keep what the controller has at this moment."""
        self.seconds = seconds
        resident, own = _resident(controller), _resident("self")
        self.samples.append(Sample(seconds, resident, nr_descriptors(controller), own))


class _Reader(threading.Thread):
    """Take in what the programs say, until they say no more."""

    def __init__(self, box: Box, soak: Soak, began: float, window: float) -> None:
        super().__init__(daemon=True)
        self._lines = box.running.stdout
        self._soak = soak
        self._began = began
        self._window = window

    def run(self) -> None:
        for line in self._lines:
            now = time.monotonic() - self._began
            text = line.decode() if isinstance(line, bytes) else line
            self._soak.windows.append(parse_window(text, max(0.0, now - self._window)))


def _resident(pid: int | str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def soak(
    program: str,
    directory: str,
    *,
    seconds: float,
    calls: int,
    rate: int,
    tick: float,
    tell: Callable[[Soak], None],
) -> Soak:
    """Go on for so many *seconds*, and until there were so many *calls*; look once every *tick*.

    Each box makes *rate* calls a second, if it can.
    Raises: RuntimeError if a box that should go on has ended.
    """
    seen = Soak()
    with Harness("5.10") as harness, ExitStack() as stack:
        controller = harness.controller.pid
        harness.memcg(_SPAN, kmem_limit="1G", memory_limit="1G")
        # What looks at names for all boxes is started by the first of them that makes one, and stays.
        made = f"{directory}/first"
        with harness.run(["mkdir", made], kmem_limit="64M") as first:
            first.wait(timeout=60)
        began = time.monotonic()
        seen.look(controller, 0.0)
        running = []
        for number, limits in enumerate(BOXES):
            command = [
                program,
                f"soak{number}",
                str(int(tick * 1000)),
                str(_MOST_SECONDS),
                str(rate),
            ]
            box = stack.enter_context(
                harness.run(
                    command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **limits
                )
            )
            running.append((box, _Reader(box, seen, began, tick)))
            running[-1][1].start()
        while seen.seconds < seconds or seen.calls < calls:
            _pass_by(harness, seen)
            if not all(reader.is_alive() for _, reader in running):
                message = "a box that should go on has ended, or said what no soak says"
                raise RuntimeError(message)
            seen.look(controller, time.monotonic() - began)
            tell(seen)
            time.sleep(max(0.0, tick - (time.monotonic() - began - seen.seconds)))
        for box, reader in running:
            box.running.stdin.close()
            status = box.wait(timeout=60)
            if status:
                seen.failures.append(f"{box.name}: {status}")
            reader.join()
            box.running.stdout.close()
            seen.reports.append(box.report())
        seen.look(controller, time.monotonic() - began)
        span = harness.memcg(_SPAN)
        seen.usage = {"kmem": span.kmem.usage, "memory": span.memory.usage}
    return seen


def _pass_by(harness: Harness, seen: Soak) -> None:
    """Have one more box come and go, in the same slice."""
    with harness.run(["true"], memcg=f"{_SPAN}/passing", kmem_limit="1M") as box:
        status = box.wait(timeout=60)
        usage = box.report()["memcg"]["kmem"]["usage"]
    seen.passing += 1
    if status or usage:
        seen.failures.append(f"{box.name}: {status}, usage {usage}")
