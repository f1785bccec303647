"""The HTML report: one file, all figures in it, and drawn by a real browser."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.report.pages import Reader
from tests.support.png import pixels

TESTS = """
@pytest.mark.limit_kmem("24k")
@pytest.mark.parametrize("count", [2, 5])
def test_it(kmem_container, count):
    box = kmem_container(["sh", "-c", "sleep 1000 & " * count + "echo made; wait"], **PIPES)
    box.running.stdout.readline()

@pytest.mark.limit_kmem("24k")
def test_shared(kmem_container_module):
    box = kmem_container_module(["sh", "-c", "sleep 1000 & echo made; wait"], **PIPES)
    assert box.running.stdout.readline() == b"made\\n"
"""
TASK_COLOUR = (0x3B, 0x8F, 0xD6)


@pytest.fixture
def page(project):
    """Write the page of two tests with a container each, and one of their module's."""
    project.tests(TESTS)
    result = project.run_here("--kmem-kernel=v4", "--kmem-report=html:kmem.html")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["report: html:*kmem.html"])
    return project.pytester.path / "kmem.html"


def test_page_when_written_then_is_one_file_that_has_every_test_and_a_plot_for_each_container(page):
    reader = Reader(page.read_text(encoding="utf-8"))
    assert not reader.fetched
    rows = {row[0]: row[1:] for row in reversed(reader.cells)}  # the first table's hold
    assert rows["test_it.py::test_it[2]"] == ["passed", "24.0K", "16.0K", "0", "0", "1"]
    assert rows["test_it.py::test_it[5]"] == ["passed", "24.0K", "24.0K", "1", "1 task", "1"]
    assert rows["test_it.py"] == ["module", "none", "not counted", "0", "0", "1"]
    for path in ("/pytest/test_it.py::test_it[2]/c1", "/pytest/test_it.py::test_it[5]/c1"):
        assert path in reader.words
    usages = [trace for name, trace in reader.traces.items() if name.endswith("usage of the memcg")]
    assert sorted(max(trace["y"]) for trace in usages) == [16384, 24576]
    assert {row["nodeid"] for row in reader.embedded["data"]["tests"]} >= {
        "test_it.py::test_it[2]",
        "test_it.py::test_it[5]",
    }


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_page_when_a_browser_draws_it_then_shows_the_plots(width, page):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: install chromium")
    picture = page.with_suffix(".png")
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={page.parent}/profile", f"--window-size={width},3000"),
        *("--virtual-time-budget=5000", f"--screenshot={picture}"),
    ]
    subprocess.run(
        [chromium, *options, page.as_uri()], capture_output=True, timeout=110, check=True
    )
    # The filled curves are paler than their lines, and the lines are thin.
    near = sum(
        all(abs(one - other) < 12 for one, other in zip(pixel, TASK_COLOUR, strict=True))
        for pixel in pixels(picture)
    )
    assert near > 500
