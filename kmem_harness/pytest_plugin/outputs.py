"""Show what a failing test's containers said last: an engine keeps their output to itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.hookspecs import hookimpl
from kmem_harness.pytest_plugin.cards import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.harness import Box, Harness
    from kmem_harness.pytest_plugin.records import Record

__all__ = ["LastWords"]

_NAME = "kmem_harness.pytest.last_words"
_LINES = 20
_LONGEST = 8192


class LastWords:
    """The ends of containers' logs, kept where a test removes a container itself."""

    def __init__(self) -> None:
        """Begin with none."""
        self._kept: WeakKeyDictionary[Box, str] = WeakKeyDictionary()
        self._needed = True

    @classmethod
    def of(cls, harness: Harness) -> LastWords:
        """Give the one of *harness*, which learns of its containers' ends."""
        found: Any = harness.hooks.manager.get_plugin(_NAME)
        if found is None:
            found = cls()
            harness.hooks.register(found, _NAME)
        return found  # type: ignore[no-any-return]

    @contextmanager
    def not_needed(self) -> Iterator[None]:
        """Keep nothing while containers end with their test: that has been reported."""
        self._needed = False
        try:
            yield
        finally:
            self._needed = True

    @hookimpl
    def kmem_before_remove(self, box: Box) -> None:
        """Keep the end of a log that is about to be gone."""
        if self._needed:
            self._kept[box] = _read(box)

    def sections(self, record: Record) -> list[tuple[str, str]]:
        """Give a title and the last lines for each container of *record* that has a log."""
        found = []
        for box in record.boxes:
            said = self._kept.get(box) or _read(box)
            if said:
                found.append((f"kmem: last output of {name_of(box.report())}", said))
        return found


def _read(box: Box) -> str:
    logs = getattr(box.running, "logs", None)  # local boxes write where the test does
    if logs is None:
        return ""
    try:
        said: bytes = logs(tail=_LINES)
    except (KmemHarnessError, OSError) as error:
        return "" if box.closed else f"(cannot be read: {error})"
    return said[-_LONGEST:].decode("utf-8", "replace").rstrip("\n")
