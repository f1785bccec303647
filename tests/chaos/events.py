"""Where the events of a run go, and what must have arrived there. Imports nothing of the package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Events"]

_SMALL_DISK = "size=16k"


class Events:
    """A place for events: a "file", a "device" or a "disk" that is full, or a "pipe"."""

    def __init__(self, kind: str, directory: Path) -> None:
        """Make it in *directory*."""
        self.kind = "device" if kind == "disk" and os.geteuid() else kind
        self._file = directory / "events.jsonl"
        self.path = self._file
        self._reader: subprocess.Popen[bytes] | None = None
        self._disk: Path | None = None
        if self.kind == "device":
            self.path = self.path.with_name("full")
            self.path.symlink_to("/dev/full")
        elif self.kind == "disk":
            self._disk = directory / "disk"
            self._disk.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", _SMALL_DISK, "none", str(self._disk)]
            subprocess.run(command, check=True)
            self.path = self._file = self._disk / "events.jsonl"
        elif self.kind == "pipe":
            self.path = directory / "pipe"
            os.mkfifo(self.path)
            with self._file.open("wb") as file:
                self._reader = subprocess.Popen(["cat", str(self.path)], stdout=file)

    @property
    def reader(self) -> int:
        """Who reads the pipe, 0 if there is none."""
        return self._reader.pid if self._reader else 0

    def judge(self, report: dict[str, Any]) -> None:
        """See that each refusal has arrived, or is counted as lost. Nobody writes any more."""
        if self._reader:
            self._reader.send_signal(signal.SIGCONT)
            self._reader.wait(10)
        lines = self._file.read_bytes().splitlines(keepends=True) if self._file.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # torn, and so lost
        assert all(json.loads(line)["errno"] in ("ENOMEM", "ENFILE") for line in lines)
        total, lost = report["refusals"]["total"], report["events_lost"]
        if report["controller_died"]:  # with all it knew since it was asked last
            return
        if self._reader and self._reader.returncode:
            assert len(lines) + lost <= total  # it took with it what it had not written
        else:
            assert len(lines) + lost == total
        if self.kind == "file":
            assert not lost

    def close(self) -> None:
        """Take it away."""
        if self._reader:
            self._reader.kill()
            self._reader.wait()
        if self._disk:
            subprocess.run(["umount", str(self._disk)], check=True)
