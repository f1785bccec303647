"""What a standing controller keeps over its own end: which accounts are open, reports of the others.

A directory, of which one process at a time holds the lock: ``lock``, ``open/ID.json``,
``reports/ID.json``. Knows files; knows no containers.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["State", "find_report", "is_id"]

#: Reports kept; the oldest make room.
_MOST_REPORTS = 1000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")


def is_id(text: str) -> bool:
    """Say whether *text* can be a container's id: a file is named after it."""
    return _ID.fullmatch(text) is not None


class State:
    """The state of one standing controller."""

    def __init__(self, directory: Path) -> None:
        """Take over *directory*. Raises: ConfigurationError if another process has it."""
        self._open = directory / "open"
        self._reports = directory / "reports"
        try:
            for each in (directory, self._open, self._reports):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"state {str(directory)!r}: {error.strerror}; name a directory of yours with --state"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            raise ConfigurationError(
                f"state {str(directory)!r} belongs to a kmem-harness serve that runs already, process "
                f"{holder}: one answers the calls of all containers; stop that one, or give another "
                "--state and --socket"
            ) from None
        os.truncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._lock)

    def opened(self, ident: str, facts: dict[str, Any]) -> None:
        """Note that a container has an account."""
        _write(self._open / f"{ident}.json", facts)

    def closed(self, ident: str, report: dict[str, Any]) -> None:
        """Keep the last report of an account that is closed."""
        _write(self._reports / f"{ident}.json", report)
        (self._open / f"{ident}.json").unlink(missing_ok=True)
        kept = sorted(self._reports.iterdir(), key=lambda one: one.stat().st_mtime)
        for old in kept[:-_MOST_REPORTS]:
            old.unlink(missing_ok=True)

    def left_open(self) -> list[tuple[str, dict[str, Any]]]:
        """Take the accounts that a controller before us did not come to close."""
        found = []
        for file in sorted(self._open.iterdir()):
            with suppress(OSError, ValueError):
                found.append((file.stem, json.loads(file.read_bytes())))
            file.unlink(missing_ok=True)
        return found


def find_report(directory: Path, ident: str) -> dict[str, Any] | None:
    """Give the kept report of the container whose id is, or begins with, *ident*.

    Raises: ConfigurationError if that is more than one.
    """
    with suppress(OSError):
        found = [one for one in (directory / "reports").iterdir() if one.stem.startswith(ident)]
        found = [one for one in found if one.stem == ident] or found
        if len(found) > 1:
            names = ", ".join(sorted(one.stem[:12] for one in found)[:5])
            raise ConfigurationError(
                f"container {ident!r} is several: {names}; give more of the id"
            )
        if found:
            report: dict[str, Any] = json.loads(found[0].read_bytes())
            return report
    return None


def _write(file: Path, value: dict[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(value), encoding="utf-8")
    new.replace(file)
