"""Find markers that are nearly named as ours: a limit must not be missing for want of a letter."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import pytest

from kmem_harness.pytest_plugin.nearest import bad_marker

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["check_spelling", "pytest_make_collect_report"]

_OURS = ("limit_kmem", "limit_kmem_leaks", "kmem_fault", "kmem_sweep")
_ALIKE = 0.85
_STRICT = "not found in `markers`"
_JUDGED: pytest.StashKey[dict[str, str | None]] = pytest.StashKey()


def check_spelling(item: pytest.Item) -> None:
    """Look for markers that nobody registered and that are nearly ours.

    Raises: KmemFailed where the test uses our fixtures; others are warned, for it may be chance.
    """
    for marker in item.iter_markers():
        ours = _meant(item.config, marker.name)
        if ours is None:
            continue
        error = bad_marker(item, f"{marker.name} is not known: did you mean {ours}?")
        if any(name.startswith("kmem_") for name in getattr(item, "fixturenames", ())):
            raise error
        from kmem_harness.pytest_plugin.verdicts import KmemWarning

        item.warn(KmemWarning(str(error)))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where strict markers stop a file's collection over such a name, say which was meant."""
    report = yield
    if report.failed and _STRICT in report.longreprtext:
        for word in report.longreprtext.split(_STRICT)[:-1]:
            name = word.rstrip().rpartition(" ")[2].strip("'\"")
            ours = _nearest(name)
            if ours is not None and name not in _OURS:
                report.sections.append(("kmem", f"{name!r}: did you mean {ours}?"))
    return report


def _meant(config: pytest.Config, name: str) -> str | None:
    """Name the marker of ours that an unregistered *name* is nearly; ``None`` if there is none."""
    judged = config.stash.setdefault(_JUDGED, {})
    if name not in judged:
        known = {line.partition(":")[0].partition("(")[0].strip() for line in _registered(config)}
        judged[name] = None if name in known else _nearest(name)
    return judged[name]


def _registered(config: pytest.Config) -> list[str]:
    return list(config.getini("markers"))


def _nearest(name: str) -> str | None:
    """Compare letters, and the words in any order."""
    ours = {_sorted(one): one for one in _OURS} | {one: one for one in _OURS}
    for form in (name.lower(), _sorted(name.lower())):
        found = difflib.get_close_matches(form, ours, n=1, cutoff=_ALIKE)
        if found:
            return ours[found[0]]
    return None


def _sorted(name: str) -> str:
    return "_".join(sorted(name.split("_")))
