"""Record every charge of a box, not refusals alone, in few system calls and short lines.

A recording is JSON lines. The first is an object that says what the others hold; a charge is an
array, for there may be millions: ``[seconds, tid, syscall, kind, nbytes, usage, usage above, ...]``,
with the usage of the box's memcg and of those above it after the charge, the root last. Refusals
are objects among them, as in any event file. The last line is an object that counts.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.account.box import EventFile

if TYPE_CHECKING:
    from kmem_harness.controller.account.books import Charge
    from kmem_harness.controller.account.box import Box

__all__ = ["RECORDING_VERSION", "RecordingFile"]

RECORDING_VERSION = 1
#: Lines are written this many at a time; some 40 kB.
_BATCH = 512


class RecordingFile(EventFile):
    """An event file that takes charges, too."""

    def __init__(self, fd: int, box: Box) -> None:
        """Take over *fd* for the charges of *box*, which begins now."""
        super().__init__(fd)
        self._zero = time.monotonic()
        self._charges = 0
        self._lines: list[str] = []
        self._counters = [counter for counter in box.counters if counter.name == "kmem"]
        memcgs = [counter.memcg.path if counter.memcg else "/" for counter in self._counters]
        super().write(
            {
                "event": "recording.began",
                "version": RECORDING_VERSION,
                "kernel": box.memcg.tree.profile.name,
                "box": box.name,
                "mode": "observe" if box.observe else "enforce",
                "began": time.time(),
                "columns": ["seconds", "tid", "syscall", "kind", "nbytes", "usage"],
                "memcgs": memcgs,
            }
        )

    def made(self, tid: int, charge: Charge) -> None:
        """Record one charge that was just made. Names hold nothing that JSON would escape."""
        syscall, kind, nbytes = charge.syscall, charge.parts[0][0].name, charge.nbytes
        usages = ",".join([str(counter.usage) for counter in self._counters])
        seconds = time.monotonic() - self._zero
        self._lines.append(f'[{seconds:.6f},{tid},"{syscall}","{kind}",{nbytes},{usages}]\n')
        if len(self._lines) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits; a full disk loses it, which is counted."""
        lines, self._lines = self._lines, []
        self._charges += len(lines)
        text = "".join(lines).encode()
        try:
            written = os.write(self._fd, text) if text else 0
        except OSError:
            written = 0
        if written != len(text):
            self.lost += len(lines) - text[:written].count(b"\n")

    def write(self, event: dict[str, Any]) -> None:
        """Append another event, in its place among the charges."""
        self.flush()
        super().write(event)

    def close(self) -> None:
        """Write the last line, and let go of the file."""
        self.flush()
        self.write({"event": "recording.ended", "charges": self._charges, "lost": self.lost})
        super().close()
