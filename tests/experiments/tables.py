"""Experiments to test with: a forker whose need is known to the byte."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["TASK", "forkers", "need"]

#: What one task costs in kernel v4. Units: bytes.
TASK = 8192
#: In one process, so that it needs what it asks for and not a byte more; a refusal makes it fail.
_FORK = """
import os, signal
made = []
try:
    for _ in range({n}):
        made.append(os.fork())
        if not made[-1]:
            signal.pause()
finally:
    if all(made):
        for pid in made:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
"""


def forkers(**more: Any) -> dict[str, Any]:
    """Make the table of an experiment that forks *n* children under a bisected limit."""
    return {
        "name": "forkers",
        "kernel": "v4",
        "box": {
            "forker": {
                "command": [sys.executable, "-I", "-S", "-c", _FORK],
                "kmem_limit": "{limit}",
            }
        },
        "vary": {"n": [2, 5], "limit": {"bisect": ["4k", "128k"]}},
    } | more


def need(n: int) -> int:
    """Say what limit *n* children need."""
    return n * TASK
