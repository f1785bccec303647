"""Kernel-memory limits for containers under test.

    with Harness(kernel="5.10") as harness:
        box = harness.run(["sh", "-c", "..."], kmem_limit="8M")
        status = box.wait(timeout=30)

Names are imported when they are first used: the controller process and the pytest plugin load
this package, and need none of them.
"""

from __future__ import annotations

from importlib import import_module

# True to type checkers. To import it takes as long as all else before a controller is started.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kmem_harness.box import Box, RefusalCard
    from kmem_harness.core.errors import (
        AccountingError,
        ConfigurationError,
        KmemHarnessError,
        ShimError,
        UnsupportedHostError,
    )
    from kmem_harness.handles import MemcgHandle
    from kmem_harness.harness import Harness

__all__ = [
    "AccountingError",
    "Box",
    "ConfigurationError",
    "Harness",
    "KmemHarnessError",
    "MemcgHandle",
    "RefusalCard",
    "ShimError",
    "UnsupportedHostError",
]

__version__ = "0.1.0"

_HOMES = {
    "Box": "box",
    "RefusalCard": "box",
    "MemcgHandle": "handles",
    "Harness": "harness",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'core.errors')}"), name)
