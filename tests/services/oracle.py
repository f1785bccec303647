"""systemd's own tools, where they are installed: what to compare with. Knows how a test does without.

As with an engine, a test without them is a skip with the reason, and a failure where
KMEM_HARNESS_REQUIRE asks for everything.
"""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["needs_programs", "needs_systemd"]


def needs_programs(*names: str) -> pytest.MarkDecorator:
    """Skip a test unless every program is there."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [name for name in names if shutil.which(name, path=path) is None]
    required = os.environ.get("KMEM_HARNESS_REQUIRE", "0") not in {"", "0"}
    return pytest.mark.skipif(
        bool(missing) and not required, reason=f"not installed: {', '.join(missing)}"
    )


needs_systemd = needs_programs("systemd-analyze", "systemd-escape")
