"""Write a run's files: the JSON and HTML reports, and the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.core.errors import KmemHarnessError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.pytest_plugin.collecting import Run
    from kmem_harness.pytest_plugin.settings import Settings

__all__ = ["write_files"]

_VERSION = 1


def write_files(settings: Settings, run: Run) -> tuple[list[str], list[str]]:
    """Write what *settings* ask for; give a line for each file, and one for each that failed."""
    written, problems = [], []
    content = content_of(settings, run)
    for kind, path in settings.report:
        problem = _write(kind, path, content)
        if problem is None:
            written.append(f"report: {kind}:{path}")
        else:
            problems.append(f"report {kind}:{path} could not be written: {problem}")
    if settings.update_baseline:
        from kmem_harness.pytest_plugin.baseline import update_baseline

        used = {
            one["name"]: one["memcg"]["kmem"]["max_usage"]
            for one in run.memcgs
            if one["scope"] == "function"
            and "shared" not in one
            and one["memcg"] is not None
            and run.outcomes.get(one["name"]) == "passed"
        }
        try:
            kept = update_baseline(settings, used)
        except (OSError, pytest.UsageError) as error:
            problems.append(f"baseline {settings.baseline} could not be written: {error}")
        else:
            more = f", {kept} of other tests kept" if kept else ""
            written.append(f"baseline: {settings.baseline}, {len(used)} tests entered{more}")
    return written, problems


def _write(kind: str, path: str, content: dict[str, Any]) -> Exception | None:
    try:
        _WRITERS[kind](path, content)
    except (OSError, KmemHarnessError) as error:
        return error
    return None


def content_of(settings: Settings, run: Run) -> dict[str, Any]:
    """Give the JSON report. Units: bytes and seconds; a limit of -1 is none.

    Shape: ``tests``, one row for each test that had a memcg, in the order they ended in, and
    ``memcgs``, rows alike for modules and sessions. ``containers`` are reports of ``Box.report``.
    """
    rows = []
    for one in run.memcgs:
        failure = run.failures.get(one["name"], {})
        of_test = {
            "outcome": run.outcomes.get(one["name"]),
            "reruns": run.reruns.get(one["name"], 0),
            "seconds": run.seconds.get(one["name"]),
            "failure": failure.get("why"),
        }
        rows.append(
            {"nodeid": one["name"], **(of_test if one["scope"] == "function" else {}), **one}
        )
    for row in rows:
        del row["name"]
    return {
        "version": _VERSION,
        "kernel": settings.kernel,
        "settings": {name: given.text for name, given in settings.given.items()},
        "tests": [row for row in rows if row["scope"] == "function"],
        "memcgs": [row for row in rows if row["scope"] != "function"],
    }


def _write_json(path: str, content: dict[str, Any]) -> None:
    from kmem_harness.report.files import write_json

    write_json(path, content, indent=1)


def _write_html(path: str, content: dict[str, Any]) -> None:
    from kmem_harness.pytest_plugin.page import write_page_of

    write_page_of(path, content)


_WRITERS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "html": _write_html,
    "json": _write_json,
}
