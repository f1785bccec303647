"""Compare what tests use with what they used before; keep that in a file to be committed."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.core.sizes import format_size
from kmem_harness.pytest_plugin.verdicts import KmemFailed

if TYPE_CHECKING:
    from kmem_harness.pytest_plugin.records import Record
    from kmem_harness.pytest_plugin.settings import Settings

__all__ = ["BASELINE", "check_increase", "read_baseline", "update_baseline"]

#: max_usage in bytes, by test.
BASELINE: pytest.StashKey[dict[str, int]] = pytest.StashKey()
_VERSION = 1
_NO_BASELINE = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


def read_baseline(settings: Settings) -> dict[str, int]:
    """Read what each test used before. Raises: pytest.UsageError."""
    try:
        content = _parse(settings.baseline)
    except FileNotFoundError:
        message = (
            f"there is no baseline {settings.baseline!r} to compare with; "
            "make it with --kmem-update-baseline"
        )
        raise pytest.UsageError(message) from None
    if content["kernel"] != settings.kernel:
        message = (
            f"baseline {settings.baseline!r} was made with kernel {content['kernel']}, and this run "
            f"emulates {settings.kernel}; make it anew with --kmem-update-baseline"
        )
        raise pytest.UsageError(message)
    return {name: row["max_usage"] for name, row in content["tests"].items()}


def check_increase(record: Record, before: dict[str, int], factor: float) -> None:
    """Fail a test that used more than *before*, by more than *factor*. Raises: KmemFailed."""
    was, counters = before.get(record.name), record.counters()
    if was is None or counters is None:
        return
    now = counters["kmem"]["max_usage"]
    if now > was * (1 + factor):
        more = f"{100 * (now - was) / was:.1f} %" if was else "from nothing"
        raise KmemFailed(
            "increase",
            f"kmem usage rose from {format_size(was)} to {format_size(now)} ({now - was} bytes, "
            f"{more}); allowed are {100 * factor:g} %. If it should be so: --kmem-update-baseline",
        )


def update_baseline(settings: Settings, used: dict[str, int]) -> int:
    """Enter what tests used, and keep what stands there of others; give how many those are.

    Raises: OSError, pytest.UsageError for a file that is no baseline.
    """
    tests: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        content = _parse(settings.baseline)
        if content["kernel"] == settings.kernel:
            tests = content["tests"]
    kept = len(tests.keys() - used.keys())
    tests |= {name: {"max_usage": nbytes} for name, nbytes in used.items()}
    content = {
        "version": _VERSION,
        "kernel": settings.kernel,
        "tests": {name: tests[name] for name in sorted(tests)},
    }
    from kmem_harness.report.files import write_json

    write_json(settings.baseline, content)
    return kept


def _parse(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']!r}, not {_VERSION}")
        for row in content["tests"].values():
            int(row["max_usage"])
        str(content["kernel"])
    except (*_NO_BASELINE, RecursionError) as error:
        message = f"{path!r} is not a baseline of kmem-harness: {error!r}"
        raise pytest.UsageError(message) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        message = f"baseline {path!r}: {error.strerror}"
        raise pytest.UsageError(message) from error
    return dict(content)
