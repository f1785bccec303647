"""Collect what the tests of all processes report, and write it down when they are over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.pytest_plugin.running import FAILURE, FIGURES
from kmem_harness.pytest_plugin.settings import SETTINGS

if TYPE_CHECKING:
    from kmem_harness.pytest_plugin.settings import Settings

__all__ = ["Collector", "Run"]


class Run:
    """What came of each test, as far as it had to do with us."""

    def __init__(self) -> None:
        """Begin with nothing."""
        #: Figures of memcgs, as ``Record.settle`` gives them.
        self.memcgs: list[dict[str, Any]] = []
        #: By test: "passed", "failed", "skipped" or "error"; seconds; why it failed with us.
        self.outcomes: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.failures: dict[str, dict[str, Any]] = {}

    def take(self, report: pytest.TestReport) -> None:
        """Take in one report of a test."""
        if report.when == "call" or not report.passed:
            outcome: str = report.outcome
            if report.failed and report.when != "call":
                outcome = "error"
            if self.outcomes.get(report.nodeid) not in ("failed", "error"):
                self.outcomes[report.nodeid] = outcome
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration
        if hasattr(report, FAILURE):
            path, line, _ = report.location
            self.failures[report.nodeid] = {
                "why": getattr(report, FAILURE),
                "text": report.longreprtext,
                "path": path,
                "line": (line or 0) + 1,
            }
        for figures in json.loads(getattr(report, FIGURES, "[]")):
            worker = getattr(report, "worker_id", None)
            self.memcgs.append({**figures, "worker": worker})


class Collector:
    """The end of a run, in the process that sees all reports."""

    def __init__(self, config: pytest.Config) -> None:
        """Collect for the run of *config*."""
        self.run = Run()
        self._settings: Settings = config.stash[SETTINGS]
        #: What was written, and what could not be.
        self.written: list[str] = []
        self.problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in one report."""
        self.run.take(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write reports and the baseline; a file that cannot be written fails the run."""
        settings = self._settings
        if not (settings.report or settings.update_baseline):
            return
        from kmem_harness.pytest_plugin.files import write_files

        self.written, self.problems = write_files(settings, self.run)
        if self.problems and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the top users and what was written, if there is anything to show."""
        if self.run.memcgs or self.written or self.problems or self.run.failures:
            from kmem_harness.pytest_plugin.summary import show

            show(terminalreporter, self)
