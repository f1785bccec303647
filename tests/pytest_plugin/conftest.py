"""Run pytest as a project does that uses the plugin: in a process and a directory of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kmem_harness

if TYPE_CHECKING:
    from _pytest.pytester import RunResult

__all__ = ["PLUGIN", "Project"]

#: A project of its own, for pytester to run.
collect_ignore = ["sample"]

#: What the plugin is called where it is not an entry point, for ``-p`` and ``-p no:``.
PLUGIN = "kmem_harness.pytest_plugin"


class Project:
    """A test suite of somebody else's."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        """Put it where *pytester* works; strict, as careful projects are."""
        self.pytester = pytester
        self._ini = "[pytest]\naddopts = --strict-markers --strict-config\n"
        pytester.makeini(self._ini)

    def ini(self, text: str) -> None:
        """Add lines to its pytest.ini."""
        self._ini += text + "\n"
        self.pytester.makeini(self._ini)

    def tests(self, text: str) -> None:
        """Write its one test file; ``HELD`` is a program that makes 5 children and reports."""
        self.pytester.makepyfile(test_it=_HELD + text)

    def run(self, *options: str) -> RunResult:
        """Run its tests in a process of their own."""
        return self.pytester.runpytest_subprocess("-p", PLUGIN, *options)

    def run_here(self, *options: str) -> RunResult:
        """Run its tests in this process: quicker, for what never gets as far as a test."""
        return self.pytester.runpytest_inprocess("-p", PLUGIN, *options)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: Any) -> Project:
    """Give an empty project that knows nothing of the settings of this run."""
    for name in list(os.environ):
        if name.startswith("KMEM_HARNESS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(Path(kmem_harness.__file__).parent.parent))
    # Whatever else is installed here; and twice as quick.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return Project(pytester)


_HELD = '''
import errno, json, os, subprocess, sys
import pytest

_FORKS = """
import errno, json, os, signal, sys
made, refused = [], None
for _ in range(5):
    try:
        pid = os.fork()
    except OSError as error:
        refused = errno.errorcode[error.errno]
        break
    if pid == 0:
        signal.pause()
    made.append(pid)
print(json.dumps([len(made), refused]), flush=True)
sys.stdin.read()
for pid in made:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""
HELD = [sys.executable, "-I", "-S", "-c", _FORKS]
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
TASK = 8192  # of kernel v4


def made_and_refused(box):
    return json.loads(box.communicate(timeout=30)[0])


def limit_of(memcg):
    return memcg.kmem.limit
'''
