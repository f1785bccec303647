"""Keep the finished runs of a sweep in a file, so that one that was broken off goes on from there.

JSON lines: the first says what is swept, the others one run each. A line cut off by a crash is left
out, and that run done again.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.faults.outcome import Outcome

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["SweepState"]

_VERSION = 2


class SweepState:
    """The finished runs of one sweep; any thread may ask and add."""

    def __init__(self, path: str, swept: dict[str, Any]) -> None:
        """Open, or begin, the file *path* for the sweep that *swept* describes, JSON-ready.

        Raises: ConfigurationError if the file is of another sweep, or cannot be written.
        """
        self._kept: dict[tuple[str, int], Outcome] = {}
        self._lock = threading.Lock()
        head = {"sweep": _VERSION, **swept}
        whole = self._read(path, head)
        try:
            # Open for as long as the sweep; closed by close().
            self._file: TextIO = Path(path).open("a" if whole else "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise ConfigurationError(
                f"state {path!r}: {error.strerror}; name a file that can be written"
            ) from error
        if not whole:
            self._write(head)
            for (mode, number), outcome in self._kept.items():
                self._write(_line(mode, number, outcome))

    def get(self, mode: str, number: int) -> Outcome | None:
        """Give a run that is done."""
        with self._lock:
            return self._kept.get((mode, number))

    def put(self, mode: str, number: int, outcome: Outcome) -> None:
        """Add a run; it is in the file when this returns."""
        with self._lock:
            self._kept[mode, number] = outcome
            self._write(_line(mode, number, outcome))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _read(self, path: str, head: dict[str, Any]) -> bool:
        """Take in what is there; false where the file has to be written anew."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"state {path!r}: {error}; name another file") from error
        lines = text.splitlines()
        if not lines:
            return False
        if _parsed(lines[0]) != head:
            raise ConfigurationError(
                f"state {path!r} is of another sweep: {lines[0][:200]}; "
                "name another file, or remove this one"
            )
        for line in lines[1:]:
            with suppress(AttributeError, KeyError, TypeError, ValueError, OverflowError):
                kept = _parsed(line)
                key = str(kept.pop("mode")), int(kept.pop("number"))
                self._kept[key] = Outcome.from_dict(kept)
        return text.endswith("\n") and len(self._kept) == len(lines) - 1


def _line(mode: str, number: int, outcome: Outcome) -> dict[str, Any]:
    return {"mode": mode, "number": number, **outcome.as_dict()}


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
