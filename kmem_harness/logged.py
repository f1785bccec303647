"""Say that something happened, to whoever listens: nobody by default, and then nothing is imported.

Above the core, which logs nothing. An event is ``noun.past_verb``, its facts are keys: at debug each
run of a sweep, at info each box, at warning what makes a result less exact, at error what spoils it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["is_wanted", "log", "show_as_environment_asks"]

_NAME = "kmem_harness"
#: The standard library's, which need not be imported for it.
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_VARIABLE = "KMEM_HARNESS_LOG"


def is_wanted(level: str) -> bool:
    """Say whether anybody listens to events of *level*."""
    logging = sys.modules.get("logging")
    if logging is None:
        return False
    log = logging.getLogger(_NAME)
    # Without a handler the standard library would write warnings where nobody has asked for any.
    return bool(log.isEnabledFor(_LEVELS[level]) and log.hasHandlers())


def log(level: str, event: str, **facts: Any) -> None:
    """Log *event*, if anybody listens."""
    if is_wanted(level):
        from kmem_harness.logs import logger  # noqa: PLC0415 - heavy: only where something is logged

        getattr(logger(), level)(event, **facts)


def show_as_environment_asks() -> None:
    """Show events if KMEM_HARNESS_LOG says so, unless that was done already.

    Raises: ConfigurationError for a text that means nothing.
    """
    asked = os.environ.get(_VARIABLE)
    logging = sys.modules.get("logging")
    if asked and (logging is None or not logging.getLogger(_NAME).handlers):
        from kmem_harness.logs import show_as_asked  # noqa: PLC0415 - heavy: only if asked for

        show_as_asked(asked)
