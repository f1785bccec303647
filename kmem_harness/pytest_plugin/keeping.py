"""Keep what a test's containers left: report, every refusal, log, and an engine's container itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmem_harness.harness import Box
    from kmem_harness.pytest_plugin.records import Record

__all__ = ["Keeper"]

_LONGEST_NAME = 150


class Keeper:
    """The folder of one test's containers: one more in it for each."""

    def __init__(self, directory: str, record: Record) -> None:
        """Keep below *directory*, in a folder named as the test is; what is there is old."""
        self.folder = Path(directory, _file_name(record))
        self._record = record
        shutil.rmtree(self.folder, ignore_errors=True)

    def open_refusals(self, number: int) -> int:
        """Open the file that every refusal of container *number* goes to. Raises: OSError."""
        place = self.folder / f"c{number}"
        place.mkdir(parents=True, exist_ok=True)
        return os.open(place / "refusals.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def leave(self, box: Box) -> None:
        """Save the log of an engine's container, end it, and leave it there. Local boxes have none."""
        keep = getattr(box.running, "keep", None)
        if keep is None:
            return
        place = self._place(box)
        (place / "log.txt").write_bytes(box.logs())
        name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", f"{self._record.name}-{place.name}-{box.name}")
        keep(name[-_LONGEST_NAME:])

    def finish(self) -> None:
        """Write the reports, when all containers have ended. Raises: OSError."""
        for box, report in zip(self._record.boxes, self._record.reports(), strict=True):
            text = json.dumps(report, indent=1, default=str) + "\n"
            (self._place(box) / "report.json").write_text(text, encoding="utf-8")

    def drop(self) -> None:
        """Keep nothing after all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, box: Box) -> Path:
        return self.folder / f"c{self._record.boxes.index(box) + 1}"


def _file_name(record: Record) -> str:
    """Name a file as a test is named; two tests, or two workers' modules, have two names."""
    plain = re.sub(r"[^\w.\[\]=+-]+", "_", record.name)
    if plain != record.name.replace("/", "_").replace("::", "_") or len(plain) > _LONGEST_NAME:
        plain = f"{plain[-_LONGEST_NAME:]}-{zlib.crc32(record.name.encode()):08x}"
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    return f"{plain}-{worker}" if worker and record.scope != "function" else plain
