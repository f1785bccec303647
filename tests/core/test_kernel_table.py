from __future__ import annotations

from pathlib import Path

import pytest

from kmem_harness.core.kernel_table import markdown_table
from kmem_harness.core.releases import PROFILE_NAMES

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- kernel-profiles:begin -->", "<!-- kernel-profiles:end -->"


def test_table_when_drawn_then_has_a_column_for_each_profile():
    lines = markdown_table().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert all(f"`{name}`" in lines[2] for name in PROFILE_NAMES)


def test_readme_when_it_shows_the_table_then_it_is_the_profiles():
    text = README.read_text() if README.exists() else ""
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    if not shown:
        pytest.skip("the README does not show the table")
    assert shown == markdown_table().strip()
