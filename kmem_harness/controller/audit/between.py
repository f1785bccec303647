"""Give way to other boxes between two steps of a long look at one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["between"]


def between(pids: Iterable[int], breathe: Callable[[], None]) -> Iterator[int]:
    """Give *pids*, and breathe after each."""
    for pid in pids:
        yield pid
        breathe()
