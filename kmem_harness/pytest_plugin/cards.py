"""Say in words what containers used and what they were refused: short, or all of it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kmem_harness.pytest_plugin.records import Record

__all__ = ["describe", "name_of", "peak"]

_SHOWN_CARDS = 5
_SHOWN_COMMAND = 60


def describe(record: Record, *, everything: bool = False) -> list[str]:
    """Give lines about a memcg, its containers and their refusals.

    Only the first refusals of each container are shown, unless *everything* is to be.
    """
    counters = record.counters()
    reports = record.reports()
    if not counters:
        lines = [f"{record.memcg.path}: the controller is gone"]
    elif all(report["mode"] == "off" for report in reports):
        lines = []
    else:
        lines = [f"{record.memcg.path}: {peak(counters)}"]
    for report in reports:
        lines += _describe_container(report, everything=everything)
    lines += [
        f"{box.memcg.path.rpartition('/')[2]} was ended: it still ran after its timeout of {seconds:g} s"
        for box, seconds in record.timed_out.items()
    ]
    return lines


def name_of(report: dict[str, Any]) -> str:
    """Name a container shortly: its place in the test, and its command."""
    place = report["memcg"]["path"].rpartition("/")[2]
    command = " ".join(shlex.join(report["command"]).split()) or "(the image's own command)"
    if len(command) > _SHOWN_COMMAND:
        command = command[: _SHOWN_COMMAND - 4] + " ..."
    return f"{place}: {command}"


def peak(counters: dict[str, Any]) -> str:
    """Say how much was used, and of what limit."""
    kmem = counters["kmem"]
    limit = "" if kmem["limit"] < 0 else f" of {kmem['limit']}"
    return f"at most {kmem['max_usage']}{limit} bytes"


def said_end(report: dict[str, Any]) -> str:
    """Say why a container ended, where that was not of its own accord."""
    ended = report["ended"]
    return "" if ended is None or ended["reason"] == "exit" else f", ended: {ended['reason']}"


def _describe_container(report: dict[str, Any], *, everything: bool) -> list[str]:
    refusals = report["refusals"]
    if report["mode"] == "off":
        return [f"{name_of(report)}: no limit, so nothing was counted{said_end(report)}"]
    ended = said_end(report)
    lines = [f"{name_of(report)}: {peak(report['memcg'])}, {refusals['total']} refused{ended}"]
    cards = refusals["cards"] if everything else refusals["cards"][:_SHOWN_CARDS]
    lines += [
        (
            f"  {card['syscall']} by {card['comm']}[{card['pid']}]: {card['errno']}, "
            f"{card['nbytes']} bytes for a {card['kind']}; {_who_refused(card)}"
        )
        for card in cards
    ]
    more = len(refusals["cards"]) - len(cards)
    if more:
        lines.append(f"  ... and {more} more: -vv shows them")
    lost = refusals["total"] - len(refusals["cards"])
    if lost and not more:
        lines.append(f"  ... and {lost} more, of which no card was kept")
    return lines


def _who_refused(card: dict[str, Any]) -> str:
    if card["counter"] == "injected":
        return f"injected by {card['rule']}"
    return f"{card['counter']} of {card['refused_by']} at {card['usage']} of {card['limit']}"
