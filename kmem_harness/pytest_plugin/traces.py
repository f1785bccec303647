"""Have a failing test show one sentence of ours and the line of the test, not our insides."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    import pytest

__all__ = ["shorten"]

_PACKAGE = "kmem_harness"
_PLUGIN = f"{_PACKAGE}.pytest_plugin."
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
    """Drop our frames below the test's, or below those of our fixtures; false if there are none."""
    frames = []
    while trace is not None:
        frames.append((trace, str(trace.tb_frame.f_globals.get("__name__", ""))))
        trace = trace.tb_next
    # What calls the test is ours in part, too.
    packages = [name.partition(".")[0] for _, name in frames]
    began = next((at for at, one in enumerate(packages) if one not in (*_RUNNERS, _PACKAGE)), None)
    if began is not None:
        first = next((at for at in range(began, len(frames)) if packages[at] == _PACKAGE), None)
        if first is None:
            return False
        frames[first - 1][0].tb_next = None
        return True
    ours = [one for one, name in frames if name.startswith(_PLUGIN)]
    if not ours:
        return False
    ours[-1].tb_next = None
    return True
