"""Watch each test run: judge what its containers did, and put that into its report."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.pytest_plugin.markers import leaks_allowed
from kmem_harness.pytest_plugin.records import RECORD, take_settled, wider
from kmem_harness.pytest_plugin.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Generator

    from kmem_harness.pytest_plugin.records import Record

__all__ = [
    "FAILURE",
    "FIGURES",
    "pytest_enter_pdb",
    "pytest_leave_pdb",
    "pytest_report_teststatus",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
]

#: What our reports carry, as attributes: why a test failed with us, and figures, as JSON.
FAILURE = "kmem_failure"
FIGURES = "kmem_figures"

#: What shared containers had been refused when the test's body began.
_REFUSED_BEFORE: pytest.StashKey[dict[Record, Counter[str]]] = pytest.StashKey()
_ALL_CARDS_VERBOSITY = 2
#: Markers that mean nothing without a container.
_FOR_CONTAINERS = ("limit_kmem", "limit_kmem_leaks", "kmem_fault")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Judge a test's containers when its body is over and they still live."""
    wide = _shared(item)
    item.stash[_REFUSED_BEFORE] = {record: record.refused() for record in wide}
    allowed = leaks_allowed(item)
    before = {}
    if allowed is not None:
        from kmem_harness.pytest_plugin.leaks import held_by

        before = held_by([*_own(item), *wide])
    result = yield
    _warn_of_markers_in_vain(item)
    for record in _own(item):
        _check_timeouts(record)
    if allowed is not None:
        from kmem_harness.pytest_plugin.leaks import check_leaks

        check_leaks([*_own(item), *_shared(item)], before, allowed)
    factor = item.config.stash[SETTINGS].fail_on_increase
    if factor is not None:
        from kmem_harness.pytest_plugin.baseline import BASELINE, check_increase

        for record in _own(item):
            check_increase(record, item.config.stash[BASELINE], factor)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a failing test what its containers were refused; have the last report carry figures."""
    settled = take_settled(item.config) if call.when == "teardown" else []
    for figures in settled:
        if figures["scope"] == "function":
            item.user_properties += _properties(figures)
    shared = _refused_since(item) if call.when == "call" else {}
    report = yield
    if settled:
        setattr(report, FIGURES, json.dumps(settled, default=str))
    if call.when == "call" and report.failed:
        _explain(item, call, report, [record for record, refused in shared.items() if refused])
    if shared and not _own(item):
        next(iter(shared)).share(item.config, item.nodeid, sum(shared.values(), Counter()))
    return report


def pytest_report_teststatus(
    report: pytest.TestReport,
) -> tuple[str, str, str] | None:
    """Show a failure that kernel memory had a part in as K."""
    if report.when == "call" and report.failed and hasattr(report, FAILURE):
        return "failed", "K", "FAILED (kmem)"
    return None


def pytest_enter_pdb() -> None:
    """Stop the clocks of containers: nobody is in a hurry in a debugger."""
    from kmem_harness.pytest_plugin.deadlines import pause_all

    pause_all()


def pytest_leave_pdb() -> None:
    """Let them go on."""
    from kmem_harness.pytest_plugin.deadlines import resume_all

    resume_all()


def _own(item: pytest.Item) -> list[Record]:
    record = item.stash.get(RECORD, None)
    return [] if record is None or record.settled else [record]


def _shared(item: pytest.Item) -> list[Record]:
    """List the records of modules and the session whose containers this test has to do with."""
    asked = getattr(item, "fixturenames", ())
    return [
        record
        for record in wider(item.config)
        if {f"kmem_container_{record.scope}", f"kmem_memcg_{record.scope}"} & set(asked)
    ]


def _warn_of_markers_in_vain(item: pytest.Item) -> None:
    """Say it where a test's own markers found no container: what it asserts is not under a limit.

    A class's or module's markers are for those of its tests that have containers.
    """
    vain = [marker.name for marker in item.own_markers if marker.name in _FOR_CONTAINERS]
    if not vain or _shared(item) or any(_is_used(record) for record in _own(item)):
        return
    from kmem_harness.pytest_plugin.verdicts import KmemWarning

    item.warn(
        KmemWarning(
            f"{item.nodeid}: marker {', '.join(dict.fromkeys(vain))} made no difference: the test "
            "made no container with kmem_container, nor in kmem_memcg"
        )
    )


def _is_used(record: Record) -> bool:
    if record.boxes:
        return True
    counters = record.counters()
    return counters is None or counters["kmem"]["max_usage"] > 0 or bool(record.memcg.children())


def _check_timeouts(record: Record) -> None:
    if record.timed_out:
        from kmem_harness.pytest_plugin.cards import name_of
        from kmem_harness.pytest_plugin.verdicts import KmemFailed

        box, seconds = next(iter(record.timed_out.items()))
        text = (
            f"{name_of(box.report())}: was ended: it still ran after its timeout of {seconds:g} s"
        )
        raise KmemFailed("timeout", text)


def _refused_since(item: pytest.Item) -> dict[Record, Counter[str]]:
    """Count what shared containers were refused since the test's body began."""
    before = item.stash.get(_REFUSED_BEFORE, {})
    return {record: record.refused() - before.get(record, Counter()) for record in _shared(item)}


def _explain(
    item: pytest.Item,
    call: pytest.CallInfo[None],
    report: pytest.TestReport,
    refused_here: list[Record],
) -> None:
    from kmem_harness.pytest_plugin.verdicts import KmemFailed

    error = None if call.excinfo is None else call.excinfo.value
    why = error.why if isinstance(error, KmemFailed) else None
    shown = [record for record in _own(item) if record.boxes] + refused_here
    if not shown and why is None:
        return
    if why is None and (refused_here or any(record.refused() for record in shown)):
        why = "refused"
    if why is not None:
        setattr(report, FAILURE, why)
    if shown:
        from kmem_harness.pytest_plugin.cards import describe

        everything = item.config.option.verbose >= _ALL_CARDS_VERBOSITY
        lines = [line for one in shown for line in describe(one, everything=everything)]
        report.sections.append(("kmem", "\n".join(lines)))


def _properties(figures: dict[str, Any]) -> list[tuple[str, object]]:
    """Give what JUnit XML shows of a test. Units: bytes; a limit of -1 is none."""
    kmem = (figures["memcg"] or {}).get("kmem", {})
    named = {f"kmem_{name}": kmem[name] for name in ("limit", "max_usage", "failcnt") if kmem}
    named["kmem_refused"] = figures["refusals"]["total"]
    named |= {
        f"kmem_refused_{kind}": count for kind, count in figures["refusals"]["by_kind"].items()
    }
    return list(named.items())
