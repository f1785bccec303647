"""Find the libraries that pages and pictures are made with. They are an extra: most runs need none.

plotly alone is 10 MB to download and most of it the plotly.js that goes into each page; whoever
only tests under a limit shall not pay for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kmem_harness.core.errors import UnsupportedHostError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["require"]


def require(name: str) -> ModuleType:
    """Import the library *name*. Raises: UnsupportedHostError, which says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UnsupportedHostError(
            f"this needs {name}, which is not installed here",
            missing=name.partition(".")[0],
            remedy="pip install 'kmem-harness[report]'",
        ) from error
