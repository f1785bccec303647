"""Collect what the tests of all processes report, and write it down when they are over."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.pytest_plugin.records import LEFT, take_settled
from kmem_harness.pytest_plugin.running import ENDED, FAILURE, FIGURES
from kmem_harness.pytest_plugin.settings import SETTINGS

if TYPE_CHECKING:
    from kmem_harness.pytest_plugin.settings import Settings

__all__ = ["Collector", "Run"]

#: Options that show something in place of running tests.
_LISTING = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test", "cacheshow")


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
        #: How often a test ran again: of all it did, its last run counts.
        self.reruns: dict[str, int] = {}
        self._begun: set[tuple[str, str | None]] = set()

    def take(self, report: pytest.TestReport) -> None:
        """Take in one report of a test."""
        worker: str | None = getattr(report, "worker_id", None)
        test = report.nodeid, worker
        if report.when == "setup":
            if test in self._begun:
                self._forget(*test)
            self._begun.add(test)
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
                "ended": getattr(report, ENDED, []),
                "text": report.longreprtext,
                "path": path,
                "line": (line or 0) + 1,
            }
        self.add(json.loads(getattr(report, FIGURES, "[]")), worker)

    def add(self, figures: list[dict[str, Any]], worker: str | None) -> None:
        """Take in figures of memcgs that *worker* had."""
        self.memcgs += [{**one, "worker": worker} for one in figures]

    def _forget(self, nodeid: str, worker: str | None) -> None:
        """Drop a test's earlier run: it runs once more."""
        self.reruns[nodeid] = self.reruns.get(nodeid, 0) + 1
        for kept in (self.outcomes, self.seconds, self.failures):
            kept.pop(nodeid, None)
        self.memcgs = [
            one
            for one in self.memcgs
            if (one["scope"], one["name"], one["worker"]) != ("function", nodeid, worker)
        ]


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

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take in what a worker of pytest-xdist had left when its tests were over."""
        left = getattr(node, "workeroutput", {}).get(LEFT, "[]")
        self.run.add(json.loads(left), node.gateway.id)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write reports and the baseline; a file that cannot be written fails the run.

        A session that has run no test, such as one that only lists them, leaves files as they are.
        """
        # After the last fixtures, which may end with the session and with no test's report.
        self.run.add(take_settled(session.config), None)
        settings = self._settings
        if not (settings.report or settings.update_baseline):
            return
        if not self.run.outcomes and not self._is_first(session):
            return
        from kmem_harness.pytest_plugin.files import write_files

        self.written, self.problems = write_files(settings, self.run)
        if self.problems and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def _is_first(self, session: pytest.Session) -> bool:
        """Say whether a run without any test shall leave a report of just that."""
        if any(session.config.getoption(name, default=False) for name in _LISTING):
            return False
        return not any(os.path.exists(path) for _, path in self._settings.report)  # noqa: PTH110 - weightless

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the top users and what was written, if there is anything to show."""
        if self.run.memcgs or self.written or self.problems or self.run.failures:
            from kmem_harness.pytest_plugin.summary import show

            show(terminalreporter, self)
