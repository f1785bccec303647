from __future__ import annotations

from pathlib import Path

from kmem_harness.core.kernel_table import markdown_table
from kmem_harness.core.releases import PROFILE_NAMES

GUIDE = Path(__file__).parents[2] / ".github" / "docs" / "kernel-memory-controller.md"
BEGIN, END = "<!-- kernel-profiles:begin -->", "<!-- kernel-profiles:end -->"


def test_table_when_drawn_then_has_a_column_for_each_profile():
    lines = markdown_table().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert all(f"`{name}`" in lines[2] for name in PROFILE_NAMES)


def test_guide_when_it_shows_the_table_then_it_is_the_profiles():
    shown = GUIDE.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == markdown_table().strip()
