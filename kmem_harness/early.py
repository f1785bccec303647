"""Start the controller of ``kmem-harness run`` before the command line itself is imported.

The one takes as long to start as the other to import: side by side both are there sooner.
"""

from __future__ import annotations

import os
from contextlib import suppress

from kmem_harness.controller.owner.start import Started, start
from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.core.releases import DEFAULT_PROFILE

__all__ = ["discard", "start_for", "take"]

#: With these a run wants another controller, or none.
_OTHERWISE = frozenset({"--kernel", "--controller", "-h", "--help"})

_started: list[Started] = []


def start_for(words: list[str]) -> None:
    """Start a controller if *words*, of the command line, look as if it will be wanted.

    Looks at no more than that: an option's value, or the target's, may pass for an option of ours.
    """
    if words[:1] != ["run"] or os.environ.get("KMEM_HARNESS_CONTROLLER"):
        return
    if _OTHERWISE.intersection(word.partition("=")[0] for word in words):
        return
    with suppress(KmemHarnessError, OSError):  # whoever needs one says why that cannot be
        _started.append(start(DEFAULT_PROFILE))


def take(kernel: str) -> Started | None:
    """Give what was started, if it emulates *kernel*, for good."""
    if _started and _started[0].kernel == kernel:
        return _started.pop()
    return None


def discard() -> None:
    """End what nobody took."""
    if _started:
        from kmem_harness.controller.owner.client import Controller  # noqa: PLC0415 - hardly ever needed

        started = _started.pop()
        Controller(started.kernel, started).close()
