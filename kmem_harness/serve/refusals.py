"""Our own plugin that logs refusals: a container's first at level warning, the others at debug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from kmem_harness.box import Box

__all__ = ["RefusalLog"]

_FACTS = ("syscall", "kind", "nbytes", "errno", "pid", "comm", "refused_by", "usage", "limit")


class RefusalLog:
    """Says what was refused to whom."""

    def __init__(self, log: Any) -> None:
        """Say it to *log*."""
        self._log = log
        self._told: set[str] = set()

    @hookimpl
    def kmem_refused(self, box: Box, card: dict[str, Any]) -> None:
        """Log it."""
        facts = {name: card.get(name) for name in _FACTS}
        if box.name in self._told:
            self._log.debug("call.refused", box=box.name, **facts)
        else:
            self._told.add(box.name)
            self._log.warning("call.refused", box=box.name, **facts)

    @hookimpl
    def kmem_after_remove(self, box: Box) -> None:
        """Forget it."""
        self._told.discard(box.name)
