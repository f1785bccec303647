"""What the README shows is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmem_harness.costs import kinds
from tests.adversary import roster

ROOT = Path(__file__).parent.parent


def between(name: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", text, re.DOTALL)
    assert found, f"README.md lacks the marks {name}"
    return found[1]


def test_readme_table_of_system_calls_is_the_one_in_the_code():
    assert between("syscalls") == kinds.markdown(), "run python -m kmem_harness.costs.kinds"


def test_readme_table_of_adversaries_is_the_one_in_the_tests():
    assert between("adversaries") == roster.markdown(), "run python -m tests.adversary.roster"


@pytest.mark.parametrize(
    "fence", ["pip install . && .venv/bin/kmem-harness demo fork-bomb", "pytest"]
)
def test_readme_commands_are_one_line_each(fence):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert [block.count("\n") for block in blocks] == [1, 1]
    assert any(fence in block for block in blocks)


def test_readme_picture_shows_the_demo():
    picture = (ROOT / ".github" / "demo-fork-bomb.svg").read_text(encoding="utf-8")
    assert "contained" in picture
