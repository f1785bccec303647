"""All readers of what somebody else may have written."""

from __future__ import annotations

from tests.fuzz import engines, files, procfs, protocols, values

__all__ = ["READERS"]

READERS = {
    **values.READERS,
    **files.READERS,
    **protocols.READERS,
    **procfs.READERS,
    **engines.READERS,
}
