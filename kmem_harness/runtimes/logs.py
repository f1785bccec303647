"""Our own plugin that logs the life of containers, through structlog onto the standard logging."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog

from kmem_harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from kmem_harness.box import Box

__all__ = ["Log", "logger"]


def logger() -> Any:
    """Give the logger of this package: events are ``noun.past_verb``, the facts are keys."""
    return structlog.wrap_logger(
        logging.getLogger("kmem_harness"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


class Log:
    """Says at level info what happened to each container."""

    def __init__(self) -> None:
        """Log to ``logging.getLogger("kmem_harness")``."""
        self._log = logger()

    @hookimpl
    def kmem_after_create(self, box: Box) -> None:
        """Log it."""
        self._say("container.created", box)

    @hookimpl
    def kmem_after_start(self, box: Box) -> None:
        """Log it."""
        self._say("container.started", box, pid=box.running.init_pid)

    @hookimpl
    def kmem_after_exec(self, box: Box) -> None:
        """Log it."""
        self._say("container.entered", box)

    @hookimpl
    def kmem_after_pause(self, box: Box) -> None:
        """Log it."""
        self._say("container.paused", box)

    @hookimpl
    def kmem_after_unpause(self, box: Box) -> None:
        """Log it."""
        self._say("container.unpaused", box)

    @hookimpl
    def kmem_after_stop(self, box: Box) -> None:
        """Log it."""
        self._say("container.stopped", box)

    @hookimpl
    def kmem_after_kill(self, box: Box) -> None:
        """Log it."""
        self._say("container.killed", box)

    @hookimpl
    def kmem_after_remove(self, box: Box) -> None:
        """Log it."""
        self._say("container.removed", box)

    def _say(self, event: str, box: Box, **facts: Any) -> None:
        self._log.info(event, box=box.name, memcg=box.memcg.path, runtime=box.runtime, **facts)
