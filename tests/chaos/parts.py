"""The processes of a run, found from outside; imports nothing of the package."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.command_line import Parts as RunParts
from tests.support.descriptors import nr_descriptors
from tests.support.peak import descendants, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

__all__ = ["Parts", "caught_shim"]


@dataclass(frozen=True)
class Parts(RunParts):
    """The parts of one box, and who reads what comes of it. 0 is nobody."""

    reader: int = 0  # of its events
    viewer: int = 0  # ``top``

    def take_descriptors(self) -> None:
        """Leave the controller hardly a descriptor more than it has."""
        _, hard = resource.prlimit(self.controller, resource.RLIMIT_NOFILE)
        few = (nr_descriptors(self.controller) + 4, hard)
        resource.prlimit(self.controller, resource.RLIMIT_NOFILE, few)

    def take_memory(self, limit: int) -> None:
        """Leave the controller no more memory than it has: RLIMIT_AS or RLIMIT_DATA."""
        name = {resource.RLIMIT_AS: "VmSize", resource.RLIMIT_DATA: "VmData"}[limit]
        status = Path(f"/proc/{self.controller}/status").read_text().splitlines()
        (row,) = (line.split() for line in status if line.startswith(f"{name}:"))
        _, hard = resource.prlimit(self.controller, limit)
        resource.prlimit(self.controller, limit, (int(row[1]) * 1024, hard))


@contextmanager
def caught_shim(run: subprocess.Popen[str], seconds: float = 0.5) -> Iterator[int]:
    """Catch the shim of a run that starts, before it has executed its target; 0 if it got away.

    The controller is stopped meanwhile: without its answer a shim gets nowhere.
    """
    found: dict[str, int] = {}

    def are_there(*names: str) -> bool:
        for pid in descendants(run.pid):
            found.setdefault(_role(pid), pid)
        return run.poll() is not None or found.keys() >= {*names}

    until(lambda: are_there("controller", "kmem-init"), 60, "no box starts")
    controller = found.get("controller", 0)
    if controller:
        os.kill(controller, signal.SIGSTOP)
    try:
        with suppress(TimeoutError):
            until(lambda: are_there("kmem-shim"), seconds, "it got away")
        yield found.get("kmem-shim", 0)
    finally:
        if controller:
            os.kill(controller, signal.SIGCONT)


def _role(pid: int) -> str:
    """Say what a process of a run is, by what it runs; the rest of its words may be the target's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    if any("kmem_harness.controller" in word for word in words[:5]):
        return "controller"
    name = Path(words[0]).name
    return "probe" if name == "kmem-init" and "--" not in words else name
