"""The first example of the README does what the README says."""

from __future__ import annotations

import re
import shutil
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support import guide

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project


@pytest.mark.skipif(
    not shutil.which("curl"), reason="the README's example runs curl: apt-get install curl"
)
def test_readme_when_its_test_runs_then_fails_at_its_limit_and_passes_under_1m(project: Project):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (example,) = guide.blocks(guide.README, "python")
    assert example in guide.blocks(guide.GUIDE / "pytest.md", "python")
    example = example.replace("8321", str(port))
    project.pytester.makepyfile(test_web=example)
    shown = project.run("-q", "-p", "no:cacheprovider").stdout.str()
    assert shown.startswith("K ")
    # A long path to Python leaves less room for the rest of the command.
    assert re.search(r"c1: .*: at most \d+ bytes, 1 refused", shown)
    assert "RuntimeError: can't start new thread" in shown
    assert re.search(r"clone3? by python[\d.]*\[\d+\]: ENOMEM, \d+ bytes for a ", shown)
    project.pytester.makepyfile(test_web=example.replace('"192K"', '"1M"'))
    project.run("-q").assert_outcomes(passed=1)
