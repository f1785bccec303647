"""Log through structlog onto the standard logging, and say on a command line what is shown of it.

An event is ``noun.past_verb``, its facts are keys. Nothing is shown before :func:`show_logs` is
called, or a program sets up the logger ``kmem_harness`` itself.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

__all__ = ["LEVELS", "VARIABLE", "log_options", "logger", "show_as_asked", "show_logs"]

LEVELS = ("debug", "info", "warning", "error")
#: What is shown where no option says so: a level, ``json``, or both with a comma between them.
VARIABLE = "KMEM_HARNESS_LOG"
_NAME = "kmem_harness"
_Command = TypeVar("_Command", bound="Callable[..., Any]")


class _Form:
    """How an event is written: as text, or as one JSON object a line."""

    as_json = False

    def __call__(self, log: Any, method: str, event: MutableMapping[str, Any]) -> str:
        import structlog  # noqa: PLC0415 - heavy: only where something is logged

        if not self.as_json:
            return str(
                structlog.processors.KeyValueRenderer(key_order=["event"])(log, method, event)
            )
        stamped = structlog.processors.TimeStamper(fmt="iso")(log, method, event)
        return str(structlog.processors.JSONRenderer()(log, method, {"level": method, **stamped}))


_form = _Form()


def logger() -> Any:
    """Give the logger of this package."""
    import structlog  # noqa: PLC0415 - heavy: only where something is logged

    return structlog.wrap_logger(
        logging.getLogger(_NAME),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            _form,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def show_logs(level: str, *, as_json: bool) -> None:
    """Write events of *level* and above to standard error, each on a line of its own."""
    _form.as_json = as_json
    handler = logging.StreamHandler(sys.stderr)
    form = "%(message)s" if as_json else "%(asctime)s %(levelname)-7s %(message)s"
    handler.setFormatter(logging.Formatter(form))
    log = logging.getLogger(_NAME)
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False


def show_as_asked(asked: str) -> None:
    """Show what *asked*, the text of the variable, says. Raises: ConfigurationError naming the words."""
    words = [word for word in asked.lower().replace(" ", "").split(",") if word]
    levels = [word for word in words if word in LEVELS]
    if len(levels) > 1 or set(words) - {*LEVELS, "json"}:
        raise ConfigurationError(
            f"{VARIABLE}={asked!r} is not understood; give one of {', '.join(LEVELS)}, and json after a "
            "comma for JSON lines"
        )
    if words:
        show_logs(levels[0] if levels else "info", as_json="json" in words)


def log_options(command: _Command) -> _Command:
    """Give a command the options ``--log-level`` and ``--log-json``."""
    command = click.option(
        "--log-json", is_flag=True, help="Log one JSON object a line, and not text."
    )(command)
    return click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        help="Log this and what is worse, to standard error.",
    )(command)
