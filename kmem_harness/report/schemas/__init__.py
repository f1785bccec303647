"""JSON Schemas of what is written for programs to read, and of experiment files. Data, and its reader.

``card``, ``report``, ``event`` (a line of an event file), ``suite`` (what pytest writes) and
``experiment``. Each names the version it is of; a key may be added without a new one.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

__all__ = ["NAMES", "schema"]

NAMES = ("card", "event", "experiment", "report", "suite")


def schema(name: str) -> dict[str, Any]:
    """Give the schema *name*, one of ``NAMES``; it refers to others by ``NAME.json``.

    Raises: KeyError for another name.
    """
    if name not in NAMES:
        raise KeyError(f"schema {name!r} is not known; known are {', '.join(NAMES)}")
    found: dict[str, Any] = json.loads(files(__name__).joinpath(f"{name}.json").read_text("utf-8"))
    return found
