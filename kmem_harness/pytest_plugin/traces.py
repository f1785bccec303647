"""Have a failing test show one sentence of ours and the line of the test, not our insides."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    import pytest

__all__ = ["shorten"]

_PACKAGE = "kmem_harness"
#: What runs a test, and is no part of it.
_RUNNERS = ("_pytest", "pluggy")


def shorten(call: pytest.CallInfo[None], config: pytest.Config) -> None:
    """End the traceback of what we raise on purpose where the test calls us, unless all is wanted.

    What is wrong with us, such as a TypeError, keeps its own.
    """
    if call.excinfo is None or config.getoption("fulltrace", default=False):
        return
    error: BaseException | None = call.excinfo.value
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if _on_purpose(error) and _cut(error.__traceback__):
            # What it was made of is ours, too.
            error.__cause__, error.__suppress_context__ = None, True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _on_purpose(error: BaseException) -> bool:
    from kmem_harness.core.errors import AccountingError, KmemHarnessError

    expected = (KmemHarnessError, OSError, subprocess.TimeoutExpired)
    return isinstance(error, expected) and not isinstance(error, AccountingError)


def _cut(trace: TracebackType | None) -> bool:
    """Drop all frames from our first one on; false if there is none."""
    last_of_test: TracebackType | None = None
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == _PACKAGE:
            # Of a fixture of ours, its own frame stays: there is no line of the test to show.
            (last_of_test or trace).tb_next = None
            return True
        if package not in _RUNNERS:
            last_of_test = trace
        trace = trace.tb_next
    return False
