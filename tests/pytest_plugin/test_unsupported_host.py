"""Where limits cannot be enforced, a test that needs one is skipped, or fails if that is asked for.

The host is a real one: the tests run inside a box, which leaves no second listener to be had.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import kmem_harness
from tests.pytest_plugin.conftest import PLUGIN

TESTS = """
@pytest.mark.limit_kmem("1M")
def test_limited(kmem_container):
    kmem_container(["touch", "started"]).wait(timeout=30)
    open("came-this-far", "w")

def test_unlimited(kmem_container):
    assert kmem_container(["true"]).wait(timeout=30) == 0

def test_directly(kmem_harness):
    from kmem_harness import UnsupportedHostError
    with pytest.raises(UnsupportedHostError, match="install filter") as caught:
        kmem_harness.run(["touch", "started"], kmem_limit="1M")
    assert "run outside" in caught.value.remedy
    assert kmem_harness.memcg("/local").children() == []
"""


@pytest.fixture
def run_inside_a_box(project):
    """Run the project's tests as the target of ``kmem-harness run``."""

    def run(*options):
        command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-ra", *options]
        return project.pytester.run(
            *(sys.executable, "-m", "kmem_harness", "run", "--quiet", "--kmem-limit", "64M"),
            *("--report", "report.json", "--", *command),
        )

    project.tests(TESTS)
    return run


@pytest.mark.parametrize("ci", ["", "true"])
def test_test_when_it_is_skipped_in_ci_then_a_warning_says_so(
    project, run_inside_a_box, monkeypatch, ci
):
    monkeypatch.setenv("CI", ci)
    result = run_inside_a_box("-k", "test_limited")
    result.assert_outcomes(skipped=1, deselected=2, warnings=1 if ci else 0)
    if ci:
        result.stdout.fnmatch_lines(["*KmemWarning: kmem limits cannot*--kmem-require makes it*"])


def test_test_when_no_listener_can_be_had_then_is_skipped_with_the_reason(
    project, run_inside_a_box
):
    result = run_inside_a_box()
    result.assert_outcomes(skipped=1, passed=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["SKIPPED*kmem limits cannot be enforced here: *install filter*busy*run outside*"]
    )
    assert not (project.pytester.path / "started").exists()
    assert not (project.pytester.path / "came-this-far").exists()
    report = json.loads(Path("report.json").read_text())
    assert report["memcg"]["kmem"]["usage"] == 0


@pytest.mark.parametrize("how", ["option", "environment"])
def test_test_when_limits_are_required_and_cannot_be_enforced_then_fails(
    how, project, run_inside_a_box, monkeypatch
):
    if how == "environment":
        monkeypatch.setenv("KMEM_HARNESS_REQUIRE", "1")
    result = run_inside_a_box(*(["--kmem-require"] if how == "option" else []))
    result.assert_outcomes(failed=1, passed=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*kmem limits cannot be enforced here: *"])
    assert not (project.pytester.path / "started").exists()


def test_require_when_switched_off_then_skips(run_inside_a_box, monkeypatch):
    monkeypatch.setenv("KMEM_HARNESS_REQUIRE", "0")
    run_inside_a_box("-k", "test_limited").assert_outcomes(skipped=1, deselected=2)


def test_harness_when_host_lacks_a_part_then_every_test_with_it_is_skipped(project):
    # A copy of the package without its native programs, as on a machine nobody built them for.
    root = Path(kmem_harness.__file__).parent
    copy = project.pytester.path / "kmem_harness"
    for path in root.rglob("*"):
        if path.suffix in {".py", ".toml"}:
            target = copy / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    project.tests("""
def test_limited(kmem_container):
    pass

def test_harmless():
    pass
""")
    words = ["-m", "pytest", "-p", PLUGIN, "-ra"]
    result = project.pytester.run(sys.executable, *words)
    result.assert_outcomes(skipped=1, passed=1)
    result.stdout.fnmatch_lines(["SKIPPED*kmem limits cannot be enforced here: *"])
