"""Fail a test whose ``kmem_fault`` never fired: it is green, and what it is about never happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.faults.fired import NEVER_FIRED, what_was_called
from kmem_harness.faults.rule import parse_rule
from kmem_harness.pytest_plugin.cards import name_of
from kmem_harness.pytest_plugin.verdicts import KmemFailed

if TYPE_CHECKING:
    from kmem_harness.pytest_plugin.fault_markers import Fault
    from kmem_harness.pytest_plugin.records import Record

__all__ = ["check_faults"]


def check_faults(record: Record) -> None:
    """See that each rule of the test's markers has done something. Raises: KmemFailed."""
    reports = record.reports()
    lines = []
    for number, fault in enumerate(record.faults):
        rule = parse_rule(fault.rule)
        rows = [
            (report, row)
            for at, report in enumerate(reports, 1)
            if fault.container in (None, at)
            for row in report.get("faults", {}).get("rules", ())[_place(record, at, number)]
        ]
        if rule.optional or rule.counts_only:
            continue
        if all(row.get("never_fired") for _, row in rows):
            made = [f"{name_of(report)}: {what_was_called(report)}" for report, _ in rows]
            none = f"there is no container {fault.container}" if not made else ""
            lines.append(f"kmem_fault {fault.rule!r} never fired: {none or '; '.join(made)}")
    if lines:
        remedy = "name a call that is made, or write optional=1 if it need not fire"
        raise KmemFailed("fault", f"{NEVER_FIRED}: {chr(10).join(lines)}\n  {remedy}")


def _place(record: Record, container: int, number: int) -> slice:
    """Find the row of the *number*-th rule among those of a container, which lack some."""
    before: list[Fault] = [
        one for one in record.faults[:number] if one.container in (None, container)
    ]
    return slice(len(before), len(before) + 1)
