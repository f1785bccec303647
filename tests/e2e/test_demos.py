"""Each demo contains what misbehaves, shows its neighbour's latency, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kmem_harness.demos.scenarios import SCENARIOS
from kmem_harness.demos.show import _verdict

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


@pytest.mark.parametrize(
    ("refusals", "max_usage", "left", "contained", "said"),
    [
        (3, 100, [], True, "contained:[/bold green] the bomb ran into its own limit"),
        (3, 101, [], False, "not contained"),
        (0, 101, [], False, "not contained"),
        (3, 100, ["process 7"], False, "not contained"),
        # On a slow machine: it did not escape, and nothing held it.
        (
            0,
            60,
            [],
            False,
            "nothing was shown:[/bold yellow] the bomb never met its limit, with 60B",
        ),
    ],
)
def test_verdict_when_a_demo_is_over_then_says_no_more_than_was_shown(
    refusals: int, max_usage: int, left: list[str], *, contained: bool, said: str
) -> None:
    outcome, sentence = _verdict("bomb", refusals, max_usage, 100, left)
    assert outcome is contained
    assert said in sentence
