"""Keep what units print and what happens to them, and hand each line on at once."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.services.engine.states import State

__all__ = ["Entry", "Journal"]

_MOST_ENTRIES = 10_000
#: States that are passed through at once and say nothing by themselves.
_QUIET = ("condition", "start-pre", "start", "start-post", "stop-post", "final-sigterm")


@dataclass(frozen=True)
class Entry:
    """One line. ``own`` ones are about the unit, the others by it. Units: seconds since the epoch."""

    time: float
    unit: str
    text: str
    own: bool


class Journal:
    """The lines of a run, the last ten thousand of them."""

    def __init__(self, show: Callable[[Entry], None] | None = None) -> None:
        """Hand every line to *show*, if there is one."""
        self.entries: deque[Entry] = deque(maxlen=_MOST_ENTRIES)
        self._show = show

    def add(self, unit: str, text: str, *, own: bool = False) -> None:
        """Take a line."""
        entry = Entry(time.time(), unit, text, own)
        self.entries.append(entry)
        if self._show is not None:
            self._show(entry)

    def state(self, unit: str, state: State, result: str) -> None:
        """Take another state of a unit."""
        if state.value not in _QUIET:
            self.add(unit, f"{state.value} ({result})" if result else state.value, own=True)

    def lines_of(self, unit: str, most: int = 10, *, own: bool = True) -> list[str]:
        """Give the last lines of one unit; without *own*, those alone that it printed itself."""
        found = [
            entry.text for entry in self.entries if entry.unit == unit and (own or not entry.own)
        ]
        return found[-most:]
