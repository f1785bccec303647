"""Say where kernel memory failed a test in the words of GitHub's workflow commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from kmem_harness.pytest_plugin.collecting import Run

__all__ = ["annotate"]

_IN_TEXT = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_IN_PROPERTIES = {**_IN_TEXT, ":": "%3A", ",": "%2C"}
_LONGEST = 2000


def annotate(run: Run, config: pytest.Config) -> list[str]:
    """Give one ``::error`` line for each test that failed with us. Paths are the workspace's."""
    workspace = os.environ.get("GITHUB_WORKSPACE") or str(config.rootpath)
    lines = []
    for nodeid, failure in run.failures.items():
        file = os.path.relpath(config.rootpath / failure["path"], workspace)
        ended = f" ({', '.join(failure['ended'])})" if failure["ended"] else ""
        title = f"kmem {failure['why']}{ended}: {nodeid}"
        properties = f"file={_escape(file, _IN_PROPERTIES)},line={failure['line']}"
        text = _escape(failure["text"][-_LONGEST:], _IN_TEXT)
        lines.append(f"::error {properties},title={_escape(title, _IN_PROPERTIES)}::{text}")
    return lines


def _escape(text: str, table: dict[str, str]) -> str:
    return text.translate({ord(char): code for char, code in table.items()})
