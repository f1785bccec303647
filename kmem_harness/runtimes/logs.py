"""Our own plugin that logs the life of containers, through structlog onto the standard logging."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.hookspecs import hookimpl
from kmem_harness.logs import logger

if TYPE_CHECKING:
    from kmem_harness.box import Box

__all__ = ["Log"]


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
