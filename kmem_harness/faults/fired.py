"""Say of a rule that never fired what there was in its stead. Knows reports; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NEVER_FIRED", "never_fired", "what_was_called"]

#: The code of this finding, in texts and for whoever looks it up.
NEVER_FIRED = "KH-F001"
_SHOWN = 6


def never_fired(report: Mapping[str, Any]) -> list[str]:
    """Give a sentence for each rule of a box's *report* that did nothing and was meant to."""
    return [
        f"{NEVER_FIRED}: rule {row['rule']!r} never fired: {_matches(row)}; "
        f"{what_was_called(report)}; with optional=1 it need not"
        for row in report.get("faults", {}).get("rules", ())
        if row.get("never_fired")
    ]


def what_was_called(report: Mapping[str, Any]) -> str:
    """Name the calls that were made of those that rules name, and what was charged."""
    faults = report.get("faults", {})
    tried = sorted(faults.get("tried", {}).items(), key=lambda one: -one[1])
    made = [f"{count} {name}" for name, count in tried]
    made += [
        f"{row['charged']} {kind} charged"
        for kind, row in report.get("kinds", {}).items()
        if row["charged"]
    ]
    return f"there were {', '.join(made[:_SHOWN])}" if made else "no call was made that it names"


def _matches(row: Mapping[str, Any]) -> str:
    if row.get("begun") is False:
        return "what it counts from never came"
    return "no call matched" if not row["matched"] else f"only {row['matched']} calls matched"
