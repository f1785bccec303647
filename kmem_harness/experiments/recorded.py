"""Read what ``--events-all`` recorded. Knows the file, and nothing of limits."""

from __future__ import annotations

import heapq
import json
import os
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["VERSION", "Recorded", "common_memcg", "merged"]

#: What the controller's recording.py writes.
VERSION = 1
#: Lines are parsed this many at a time: one call of the parser costs as much as a line does.
_BATCH = 4096
#: Columns of a row before those of usage.
_FIXED = 5


class Recorded:
    """One recording: its first line, and its charges in order.

    Raises: ConfigurationError for a file that is no recording of ours, with the line; OSError.
    """

    def __init__(self, path: str) -> None:
        """Open *path* far enough to know what it holds."""
        self.path = path
        #: Whether the last line was there: else the run was cut off. Known after reading.
        self.whole = False
        #: Charges that could not be written. Known after reading.
        self.lost = 0
        with open(path, encoding="utf-8", errors="replace") as file:
            first = file.readline()
        head: Any = None
        with suppress(ValueError, RecursionError):
            head = json.loads(first)
        if not isinstance(head, dict) or head.get("event") != "recording.began":
            raise ConfigurationError(
                f"{path}:1: not a recording of charges; make one with "
                "kmem-harness run --observe --events FILE --events-all -- COMMAND"
            )
        if head.get("version") != VERSION:
            raise ConfigurationError(
                f"{path}:1: recording version {head.get('version')!r}, and this kmem-harness reads "
                f"version {VERSION}; record again, or use the release that wrote it"
            )
        try:
            self.kernel = str(head["kernel"])
            self.began = float(head["began"])
            self.memcgs = [str(memcg) for memcg in head["memcgs"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"{path}:1: a recording's first line lacks {error}") from error

    def column_of(self, memcg: str) -> int:
        """Find the usage of *memcg* in a row. Raises: ConfigurationError if it is not there."""
        if memcg not in self.memcgs:
            known = ", ".join(self.memcgs)
            raise ConfigurationError(f"{self.path} holds no usage of {memcg!r}; it has {known}")
        return _FIXED + self.memcgs.index(memcg)

    def charges(self) -> Iterator[list[Any]]:
        """Give each charge: seconds, tid, syscall, kind, nbytes, and the usages after it.

        Raises: ConfigurationError naming the first line that cannot be read.
        """
        width = _FIXED + len(self.memcgs)
        with open(self.path, encoding="utf-8", errors="replace") as file:
            number = 1
            next(file)
            while lines := list(islice(file, _BATCH)):
                if len(lines) < _BATCH and not lines[-1].endswith("\n"):
                    lines.pop()  # the run was cut off in the middle of it
                for offset, row in enumerate(self._parse(lines, number)):
                    if type(row) is list and len(row) == width and _counts(row):
                        yield row
                    elif not self._take_note(row):
                        message = f"{self.path}:{number + offset + 1}: not a charge: {row!r}"
                        raise ConfigurationError(message[:300])
                number += len(lines)

    def _parse(self, lines: list[str], before: int) -> list[Any]:
        try:
            rows: list[Any] = json.loads(f"[{','.join(lines)}]")
        except (ValueError, RecursionError) as error:
            offset = next((at for at, line in enumerate(lines) if not _is_json(line)), 0)
            where = f"{self.path}:{before + offset + 1}"
            raise ConfigurationError(f"{where}: not JSON, so this is no recording") from error
        return rows

    def _take_note(self, event: Any) -> bool:
        """Keep what an event that is no charge says; false if it is no event."""
        if not isinstance(event, dict) or "event" not in event:
            return False
        if event["event"] == "recording.ended":
            lost = event.get("lost")
            self.whole = type(lost) is int
            self.lost = lost if type(lost) is int else 0
            return self.whole
        return True


def _counts(row: list[Any]) -> bool:
    """Say whether what is calculated with in a row are numbers."""
    return type(row[0]) is float and {*map(type, row[_FIXED - 1 :])} == {int}


def _is_json(line: str) -> bool:
    with suppress(ValueError, RecursionError):
        json.loads(line)
        return True
    return False


def merged(recordings: Sequence[Recorded], memcg: str) -> Iterator[tuple[float, int, list[Any]]]:
    """Give (time, usage of *memcg*, row) of all charges below it, in the order they were made.

    Units: seconds since the epoch, bytes.
    """
    if len(recordings) == 1:  # no merge to pay for
        return _dated(recordings[0], memcg)
    return heapq.merge(*(_dated(one, memcg) for one in recordings), key=lambda each: each[0])


def _dated(recording: Recorded, memcg: str) -> Iterator[tuple[float, int, list[Any]]]:
    began, column = recording.began, recording.column_of(memcg)
    return ((began + row[0], row[column], row) for row in recording.charges())


def common_memcg(recordings: Sequence[Recorded]) -> str:
    """Find the memcg that all recordings are below: the box's own if there is one recording."""
    first, *others = recordings
    for memcg in first.memcgs:
        if all(memcg in one.memcgs for one in others):
            return memcg
    paths = ", ".join(os.fspath(one.path) for one in recordings)
    raise ConfigurationError(f"no memcg is above all of {paths}")
