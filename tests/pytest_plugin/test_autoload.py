"""The sample project beside whatever plugins are installed, all of them loaded as pytest does it."""

from __future__ import annotations

from importlib.metadata import distributions

import pytest

from tests.pytest_plugin.conftest import PLUGIN
from tests.pytest_plugin.test_sample import ALSO_FAILS, FAILURES, check_files, failed, sample

__all__ = ["sample"]

HERE = [point for one in distributions() for point in one.entry_points if point.group == "pytest11"]
NAMES = {point.name for point in HERE}


@pytest.mark.slow
@pytest.mark.parametrize("dist", ["loadgroup", "worksteal"])
def test_sample_when_all_plugins_are_loaded_then_ends_as_it_should(sample, monkeypatch, dist):
    if "xdist" not in NAMES:
        pytest.skip("pytest-xdist is not installed")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    ours = () if "kmem_harness" in NAMES else ("-p", PLUGIN)
    files = ("--kmem-report=json:kmem.json", "--junitxml=junit.xml")
    options = ("--kmem-limit=4M", "-n", "2", "--dist", dist, *files)
    result = sample.pytester.runpytest_subprocess(*ours, *options)
    assert failed(result) == {*FAILURES, ALSO_FAILS}
    assert "INTERNALERROR" not in result.stdout.str()
    check_files(sample.pytester.path, workers={"gw0", "gw1"})
