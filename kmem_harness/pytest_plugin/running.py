"""Watch each test run: judge what its containers did, and put that into its report."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.pytest_plugin.markers import leaks_allowed
from kmem_harness.pytest_plugin.records import own_record, take_settled, wider
from kmem_harness.pytest_plugin.settings import SETTINGS
from kmem_harness.pytest_plugin.traces import shorten

if TYPE_CHECKING:
    from collections.abc import Generator

    from kmem_harness.pytest_plugin.records import Record

__all__ = [
    "ENDED",
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
#: ... and why its containers ended, where not of their own accord.
ENDED = "kmem_ended"

#: What shared containers had been refused when the test's body began, and what all of the test's
#: had been when a part of it (a subtest) was reported last; that is dropped when the body is over.
_REFUSED_BEFORE: pytest.StashKey[dict[Record, Counter[str]]] = pytest.StashKey()
_REFUSED_TOLD: pytest.StashKey[dict[Record, Counter[str]]] = pytest.StashKey()
_ALL_CARDS_VERBOSITY = 2
_REFUSED_PROPERTY = "kmem_refused_"
#: Markers that mean nothing without a container.
_FOR_CONTAINERS = ("limit_kmem", "limit_kmem_leaks", "kmem_fault")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Judge a test's containers when its body is over and they still live."""
    wide = _shared(item)
    refused = {record: record.refused() for record in wide}
    item.stash[_REFUSED_BEFORE], item.stash[_REFUSED_TOLD] = refused, dict(refused)
    allowed = leaks_allowed(item)
    before = {}
    if allowed is not None:
        from kmem_harness.pytest_plugin.leaks import held_by

        before = held_by([*_own(item), *wide])
    try:
        result = yield
    except pytest.skip.Exception:
        raise
    except (Exception, pytest.fail.Exception):
        _warn_of_markers_in_vain(item)
        raise
    finally:
        del item.stash[_REFUSED_TOLD]
        _share(item)
    _warn_of_markers_in_vain(item)
    for record in _own(item):
        _check_timeouts(record)
        _check_faults(item, record)
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
        if figures["scope"] == "function" and figures["name"] == item.nodeid:
            _set_properties(item, figures)
    shorten(call, item.config)
    report = yield
    if settled:
        setattr(report, FIGURES, json.dumps(settled, default=str))
    why = getattr(call.excinfo and call.excinfo.value, "why", None)
    if report.failed and why is not None:
        setattr(report, FAILURE, why)
    if call.when == "call":
        refused = _refused_since_told(item)
        if report.failed:
            _explain(item, report, [record for record, count in refused.items() if count])
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
    record = own_record(item)
    return [] if record is None or record.settled else [record]


def _shared(item: pytest.Item) -> list[Record]:
    """List the records of classes, modules and the session whose containers this test has to do with."""
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


def _check_faults(item: pytest.Item, record: Record) -> None:
    """Fail a test whose ``kmem_fault`` never failed anything: it has shown nothing. Raises: KmemFailed.

    A rule for each of several containers is to fire in one of them.
    """
    if not record.faults or not record.boxes or any(item.iter_markers("kmem_sweep")):
        return
    from kmem_harness.pytest_plugin.idle_faults import check_faults

    check_faults(record)


def _share(item: pytest.Item) -> None:
    """Take down, once for the whole test, what containers that it shares were refused in its body."""
    before = item.stash[_REFUSED_BEFORE]
    since = {one: one.refused() - before.get(one, Counter()) for one in _shared(item)}
    if since and not _own(item):
        next(iter(since)).share(item.config, item.nodeid, sum(since.values(), Counter()))


def _refused_since_told(item: pytest.Item) -> dict[Record, Counter[str]]:
    """Count what a test's containers were refused: a part of it since the last part, all in all.

    A subtest is reported while the body still runs.
    """
    told = item.stash.get(_REFUSED_TOLD, None)
    before = item.stash.get(_REFUSED_BEFORE, {}) if told is None else told
    now = {one: one.refused() for one in [*_own(item), *_shared(item)]}
    if told is not None:
        told.update(now)
    return {record: count - before.get(record, Counter()) for record, count in now.items()}


def _explain(item: pytest.Item, report: pytest.TestReport, refused_here: list[Record]) -> None:
    """Show what a failing test's containers were refused, and what they said last."""
    own = [record for record in _own(item) if record.boxes]
    shown = own + [record for record in refused_here if record not in own]
    ended = [box.ended for record in shown for box in record.boxes]
    setattr(report, ENDED, sorted({one.reason for one in ended if one is not None} - {"exit"}))
    if not hasattr(report, FAILURE):
        if any(record.timed_out for record in own):
            setattr(report, FAILURE, "timeout")
        elif refused_here:
            setattr(report, FAILURE, "refused")
    if not shown:
        return
    from kmem_harness.pytest_plugin.cards import describe

    everything = item.config.getoption("verbose", default=0) >= _ALL_CARDS_VERBOSITY
    lines = [line for one in shown for line in describe(one, everything=everything)]
    report.sections.append(("kmem", "\n".join(lines)))
    for record in shown:
        if record.last_words is not None:
            report.sections += record.last_words.sections(record)


def _set_properties(item: pytest.Item, figures: dict[str, Any]) -> None:
    """Have JUnit XML show what a test used, in its last run where it ran more than once."""
    own = _properties(figures)
    names = {name for name, _ in own}
    kept = [
        one
        for one in item.user_properties
        if one[0] not in names and not one[0].startswith(_REFUSED_PROPERTY)
    ]
    item.user_properties[:] = [*kept, *own]


def _properties(figures: dict[str, Any]) -> list[tuple[str, object]]:
    """Give what JUnit XML shows of a test. Units: bytes; a limit of -1 is none."""
    kmem = (figures["memcg"] or {}).get("kmem", {})
    named: dict[str, object] = {
        f"kmem_{name}": kmem[name] for name in ("limit", "max_usage", "failcnt") if kmem
    }
    named["kmem_refused"] = figures["refusals"]["total"]
    if figures["ended"]:
        named["kmem_ended"] = ",".join(figures["ended"])
    named |= {
        f"{_REFUSED_PROPERTY}{kind}": count
        for kind, count in figures["refusals"]["by_kind"].items()
    }
    return list(named.items())
