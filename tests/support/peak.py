"""Measure from outside how many tasks a box really had at once.

Two instruments for tasks. ``PidsCgroup`` (root) asks the kernel, which counts exactly; its limit is also the
backstop that keeps a bomb from the machine. ``NamespacePeak`` (any user) looks through procfs as
fast as it can, so a task that lives shorter than one scan may escape it. Neither asks the harness:
what it believes is what is being tested. ``Peak`` watches other objects in the same way.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

__all__ = [
    "NamespacePeak",
    "Peak",
    "PeakReading",
    "PidsCgroup",
    "descendants",
    "until",
    "why_no_pids_cgroup",
]

_SCANNER = Path(__file__).with_name("scanner.py")
_V1 = Path("/sys/fs/cgroup/pids")
_V2 = Path("/sys/fs/cgroup")
_NAMES = itertools.count()
_TEARDOWN_SECONDS = 10.0


def why_no_pids_cgroup() -> str | None:
    """Say what keeps this process from ``PidsCgroup``, or ``None`` if nothing does."""
    try:
        parent = _pids_parent()
        probe = parent / f"kmem-probe-{os.getpid()}-{next(_NAMES)}"
        probe.mkdir()
    except OSError as error:
        return f"no writable pids cgroup: {error}"
    try:
        if not (probe / "pids.max").exists():
            return f"{parent} has no pids controller for its children"
        if not (probe / "pids.peak").exists():
            return "this kernel has no pids.peak (Linux 6.1 has)"
        return None
    finally:
        probe.rmdir()


def _pids_parent() -> Path:
    """Find where a cgroup with a pids controller can be made."""
    if (_V1 / "cgroup.procs").exists():
        return _V1
    if not (_V2 / "cgroup.subtree_control").exists():
        raise FileNotFoundError(str(_V2 / "cgroup.subtree_control"))
    if "pids" not in (_V2 / "cgroup.subtree_control").read_text().split():
        (_V2 / "cgroup.subtree_control").write_text("+pids")
    return _V2


class PidsCgroup:
    """A pids cgroup for one measurement, gone afterwards together with everything in it.

    Units: tasks, which are threads and zombies too. ``limit`` is the backstop: above it fork
    fails with EAGAIN.
    Needs: root, or a delegated cgroup; ask ``why_no_pids_cgroup`` first.
    """

    def __init__(self, limit: int) -> None:
        """Remember the backstop; the cgroup is made on entering."""
        self.limit = limit
        self.path = _pids_parent() / f"kmem-test-{os.getpid()}-{next(_NAMES)}"

    def __enter__(self) -> Self:
        """Make the cgroup."""
        self.path.mkdir()
        (self.path / "pids.max").write_text(str(self.limit))
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left and remove the cgroup; look for leftovers before."""
        self.kill()
        until(self._remove, _TEARDOWN_SECONDS, f"{self.path} is still in use")

    def command(self, command: Sequence[str]) -> list[str]:
        """Wrap *command* so that it enters this cgroup before it is executed."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["/bin/sh", "-c", enter, str(self.path / "cgroup.procs"), *command]

    @property
    def peak(self) -> int:
        """The most tasks there ever were at once, since the cgroup was made."""
        return int((self.path / "pids.peak").read_text())

    @property
    def current(self) -> int:
        """The tasks there are now; a task already dead counts until its parent has collected it."""
        return int((self.path / "pids.current").read_text())

    @property
    def processes(self) -> list[int]:
        """The processes in here that still run."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def kill(self) -> None:
        """Kill everything in here, however fast it multiplies."""
        (self.path / "pids.max").write_text("0")  # from here on nobody in it can fork
        until(self._killed, _TEARDOWN_SECONDS, f"{self.path} does not die")

    def _killed(self) -> bool:
        left = self.processes
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    def _remove(self) -> bool:
        try:
            self.path.rmdir()
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class PeakReading:
    """What a ``NamespacePeak`` saw; ``scanner.py`` tells what the figures mean."""

    peak: int  # tasks that certainly were alive at one instant
    seen: int  # tasks in one scan; more than the truth if they come and go quickly
    scans: int
    seconds: float
    longest: float  # seconds, the longest time without a look

    @property
    def scans_per_second(self) -> float:
        """How fast the scanner really was."""
        return self.scans / self.seconds if self.seconds else 0.0


class Peak:
    """Watch what *where* holds, as ``scanner.py`` knows *how* to, for the most of it at once."""

    def __init__(self, how: str, where: str) -> None:
        """Say what to watch; watching begins on entering."""
        self._command = [sys.executable, "-I", "-S", str(_SCANNER), how, where]
        self._scanner: subprocess.Popen[str] | None = None
        self._reading: PeakReading | None = None

    def __enter__(self) -> Self:
        """Start scanning; the first scan is over when this returns."""
        # In a session of its own, so that a scheduler which groups by session does not starve it.
        self._scanner = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._scanner.stdout is not None
        if self._scanner.stdout.readline() != "ready\n":
            self._scanner.wait()
            message = f"the scanner did not start: {self._command}"
            raise RuntimeError(message)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop scanning."""
        self.stop()

    def stop(self) -> PeakReading:
        """Stop scanning and say what was seen; a second call says the same."""
        if self._reading is None:
            assert self._scanner is not None
            out, _ = self._scanner.communicate(timeout=_TEARDOWN_SECONDS)
            self._reading = PeakReading(**json.loads(out))
        return self._reading


class NamespacePeak(Peak):
    """Watch a pid namespace, or a process and its descendants, for the most tasks alive at once.

    Needs: the user of the box or a privileged one; a namespace needs a procfs mounted in it.
    """

    def __init__(self, *, init: int | None = None, root: int | None = None) -> None:
        """Watch the namespace whose first process *init* is, or the tree under *root*."""
        if (init is None) == (root is None):
            message = "say either init or root"
            raise ValueError(message)
        self._procfs = None if init is None else Path(f"/proc/{init}/root/proc")
        if init is None:
            super().__init__("tree", str(root))
        else:
            super().__init__("namespace", str(self._procfs))

    def __enter__(self) -> Self:
        """Start scanning, once the namespace has a procfs."""
        if self._procfs is not None:
            message = f"{self._procfs} is not the procfs of another pid namespace"
            until(self._is_foreign, 5, message)
        return super().__enter__()

    def _is_foreign(self) -> bool:
        # Until the box has mounted its own, the procfs of the host is there, and full of tasks.
        assert self._procfs is not None
        try:
            (self._procfs / "self").readlink()
        except FileNotFoundError:  # we are not in it
            return True
        return False


def descendants(root: int) -> list[int]:
    """List the processes below *root*, nearest first, without *root* itself."""
    found: list[int] = []
    unread = [root]
    while unread:
        process = unread.pop(0)
        with suppress(OSError):
            for thread in Path(f"/proc/{process}/task").iterdir():
                children = [int(pid) for pid in (thread / "children").read_text().split()]
                found += children
                unread += children
    return found


def until(condition: Callable[[], bool], seconds: float, otherwise: str) -> float:
    """Wait until *condition* holds; TimeoutError after *seconds*, else the seconds it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(otherwise)
        time.sleep(0.002)
    return time.monotonic() - started
