"""Each demo contains what misbehaves, shows its neighbour's latency, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kmem_harness.demos.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent.parent


#: Shown in Docker by the quick tests.
_SLOW = {"fork-bomb": [pytest.mark.slow]}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_SLOW.get(name, [])) for name in SCENARIOS]
)
def test_demo_then_contains_the_culprit_and_leaves_nothing(name: str) -> None:
    command = [sys.executable, "-m", "kmem_harness", "demo", name]
    ended = subprocess.run(
        [*command, "--seconds", "0.5", "--kmem-limit", "512K"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "left afterwards: nothing" in ended.stdout
    assert "contained: the " in ended.stdout
    assert "neighbour: p99" in ended.stdout
