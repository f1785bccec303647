"""Make the page of one or many runs: usage over time, refusals, the tree of memcgs, the kinds."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from kmem_harness.core.sizes import format_size
from kmem_harness.report.page import Page, write_page
from kmem_harness.report.parts import Cell, Facts, Figure, Section, Table, byte_axis, colour_of
from kmem_harness.report.series import (
    Curve,
    ancestors,
    began,
    curve_below,
    is_limit,
    kinds_of,
    value_at,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["render_html", "run_sections", "usage_figures", "write_html"]

#: A limit this many times higher than the curve is said in words: drawn, it would flatten it.
_FAR = 4
_LONGEST_COMMAND = 100
_CARD_FIELDS = ("time", "box", "pid", "tid", "comm", "syscall", "kind", "errno", "memcg")


def render_html(
    reports: Sequence[Mapping[str, Any]],
    *,
    title: str = "kmem-harness",
    memcgs: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Make one self-contained HTML page of run *reports*.

    :param reports: as :meth:`Box.report` gives them, or ``--report FILE.json`` wrote them.
    :param memcgs: counters of further memcgs, such as slices, in the shape of a report's ``memcg``.

    Raises: UnsupportedHostError without the libraries of the extra ``report``.
    """
    return _page(reports, title, memcgs).render()


def write_html(
    path: str,
    reports: Sequence[Mapping[str, Any]],
    *,
    title: str = "kmem-harness",
    memcgs: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write what :func:`render_html` makes to *path*, whole or not at all. Raises: OSError, too."""
    write_page(path, _page(reports, title, memcgs))


def _page(
    reports: Sequence[Mapping[str, Any]], title: str, memcgs: Sequence[Mapping[str, Any]]
) -> Page:
    sections = run_sections(reports, memcgs)
    return Page(title, sections, data={"reports": list(reports), "memcgs": list(memcgs)})


def run_sections(
    reports: Sequence[Mapping[str, Any]], memcgs: Sequence[Mapping[str, Any]] = ()
) -> list[Section]:
    """Lay out what runs have to say, for a page of its own or as part of a larger one."""
    counters = _counters(reports, memcgs)
    return [
        Section("Runs", [_summary(reports), _table_of_runs(reports)], "runs"),
        Section("Usage over time", [*usage_figures(reports, memcgs)], "usage"),
        Section("Memcgs", [_tree(reports, counters)], "memcgs"),
        Section("Refusals", [_table_of_cards(reports)], "refusals"),
        Section("Kinds of objects", [_table_of_kinds(reports)], "kinds"),
    ]


def _counters(
    reports: Sequence[Mapping[str, Any]], memcgs: Sequence[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    return {str(one["path"]): one for one in (*memcgs, *(one["memcg"] for one in reports))}


def _summary(reports: Sequence[Mapping[str, Any]]) -> Facts:
    refused = sum(one["refusals"]["total"] for one in reports)
    items = [
        ("runs", str(len(reports))),
        ("refused calls", str(refused)),
        (
            "highest usage",
            format_size(max((one["memcg"]["kmem"]["max_usage"] for one in reports), default=0)),
        ),
        ("kernel", ", ".join(sorted({str(one["kernel"]) for one in reports})) or "none"),
        ("wall time", f"{max((one['wall_seconds'] for one in reports), default=0):.2f} s"),
    ]
    lost = sum(one["events_lost"] for one in reports)
    return Facts([*items, *([("events lost", str(lost))] if lost else [])])


def _table_of_runs(reports: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for one in reports:
        kmem = one["memcg"]["kmem"]
        limit = kmem["limit"]
        rows.append(
            [
                Cell(_command(one["command"]), mono=True),
                Cell(one["memcg"]["path"], mono=True),
                Cell(one["mode"]),
                Cell(_ended(one)),
                Cell(_limit(limit), number=True),
                Cell(format_size(kmem["max_usage"]), number=True, share=_share(kmem)),
                Cell(str(one["refusals"]["total"]), number=True),
                Cell(f"{one['wall_seconds']:.2f}", number=True),
            ]
        )
    columns = ["command", "memcg", "mode", "ended", "kmem limit", "at most", "refused", "seconds"]
    return Table("", columns, rows)


def usage_figures(
    reports: Sequence[Mapping[str, Any]], memcgs: Sequence[Mapping[str, Any]] = ()
) -> list[Figure]:
    """Draw usage over time, for each memcg that holds boxes and each above that says more."""
    counters = _counters(reports, memcgs)
    zero = began(reports)
    kinds = kinds_of(reports)
    own = dict.fromkeys(str(one["memcg"]["path"]) for one in reports)
    refusing = {card["refused_by"] for one in reports for card in one["refusals"]["cards"]}
    above = {path for one in own for path in ancestors(one)}
    # An ancestor has a picture of its own where it says more than its only child does.
    worth = [
        path
        for path in sorted(above - set(own))
        if path in refusing
        or is_limit(counters.get(path, {}).get("kmem", {}).get("limit", -1))
        or (path != "/" and sum(path in ancestors(one) for one in own) > 1)
    ]
    return [
        _usage_figure(number, path, reports, counters, kinds, zero)
        for number, path in enumerate(sorted({*own, *worth}))
    ]


def _usage_figure(
    number: int,
    path: str,
    reports: Sequence[Mapping[str, Any]],
    counters: Mapping[str, Mapping[str, Any]],
    kinds: list[str],
    zero: float,
) -> Figure:
    curve = curve_below(path, reports, zero)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": kind,
            "stackgroup": "kinds",
            "x": curve.seconds,
            "y": nbytes,
            "line": {"shape": "hv", "width": 1, "color": colour_of(kind, kinds)},
            "hovertemplate": f"{kind}: %{{customdata}}<extra></extra>",
            "customdata": [format_size(one) for one in nbytes],
        }
        for kind, nbytes in curve.by_kind.items()
    ]
    if curve.usage:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "usage of the memcg",
                "x": curve.seconds,
                "y": curve.usage,
                "line": {"shape": "hv", "width": 1.5},
                "meta": {"ink": "text"},
                "hovertemplate": "usage: %{customdata}<extra></extra>",
                "customdata": [format_size(one) for one in curve.usage],
            }
        )
    limits, far = _limit_traces(path, counters, reports, curve)
    marks, unmarked = _marks(path, reports, curve, zero)
    highest = max(
        [
            curve.peak,
            *(trace["y"][0] for trace in limits),
            *(mark for mark in (marks or {}).get("y", [])),
        ]
    )
    notes = [*far]
    if not curve.seconds:
        notes.append("nothing was counted here: no limit, no filter")
    if unmarked:
        notes.append(f"{unmarked} later refusals have no card, and so no mark")
    return Figure(
        name=f"usage-{number}",
        title=path,
        traces=[*traces, *limits, *([marks] if marks else [])],
        layout={
            "xaxis": {"title": {"text": "seconds"}, "rangemode": "tozero", "automargin": True},
            "yaxis": byte_axis(highest),
            "hovermode": "x unified",
        },
        note="; ".join(notes),
    )


def _limit_traces(
    path: str,
    counters: Mapping[str, Mapping[str, Any]],
    reports: Sequence[Mapping[str, Any]],
    curve: Curve,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Give the limits as lines, and in words those too far up to be drawn."""
    traces, far = [], []
    for name, dash in (("kmem", "dash"), ("memory", "dot")):
        limit = counters.get(path, {}).get(name, {}).get("limit", -1)
        if not is_limit(limit):
            # Nobody gave us its counters, but a card may tell.
            limit = max(
                (
                    card["limit"]
                    for one in reports
                    for card in one["refusals"]["cards"]
                    if (card["refused_by"], card["counter"]) == (path, name)
                ),
                default=-1,
            )
        if not is_limit(limit):
            continue
        if limit > _FAR * max(curve.peak, 1):
            far.append(f"{name} limit {format_size(limit)}, far above")
            continue
        ends = [curve.seconds[0], curve.seconds[-1]] if curve.seconds else [0, 1]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name} limit {format_size(limit)}",
                "x": ends,
                "y": [limit, limit],
                "line": {"dash": dash, "width": 2},
                "meta": {"ink": "bad"},
                "hoverinfo": "skip",
            }
        )
    return traces, far


def _marks(
    path: str, reports: Sequence[Mapping[str, Any]], curve: Curve, zero: float
) -> tuple[dict[str, Any] | None, int]:
    """Mark the refusals that *path* made, or met further up, where usage stood then."""
    x, y, text, unmarked = [], [], [], 0
    total = [sum(column) for column in zip(*curve.by_kind.values(), strict=True)]
    for one in reports:
        cards = one["refusals"]["cards"]
        if one["memcg"]["path"] == path:
            unmarked += one["refusals"]["total"] - len(cards)
        for card in cards:
            if path not in {card["refused_by"], card["memcg"]}:
                continue
            when = round(card["time"] - zero, 6)
            x.append(when)
            y.append(
                card["usage"]
                if card["refused_by"] == path
                else value_at(curve.seconds, curve.usage or total, when)
            )
            text.append(_card_text(card))
    if not x:
        return None, unmarked
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "refused",
        "x": x,
        "y": y,
        "text": text,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"symbol": "x", "size": 8},
        "meta": {"ink": "bad"},
    }, unmarked


def _card_text(card: Mapping[str, Any]) -> str:
    live = ", ".join(f"{count} {kind}" for kind, count in card["live"].items()) or "nothing"
    return (
        f"<b>{card['syscall']}</b> by {card['comm']}[{card['pid']}] refused: {card['errno']}<br>"
        f"{card['kind']}, {format_size(card['nbytes'])}, for {card['memcg']}<br>"
        f"{card['counter']} of {card['refused_by']}: "
        f"{format_size(card['usage'])} of {_limit(card['limit'])}<br>live: {live}"
    )


def _tree(reports: Sequence[Mapping[str, Any]], counters: Mapping[str, Mapping[str, Any]]) -> Table:
    own = [str(one["memcg"]["path"]) for one in reports]
    paths = sorted({*own, *counters, *(above for one in own for above in ancestors(one))})
    rows = []
    for path in paths:
        below = [
            one
            for one in reports
            if path in {*ancestors(one["memcg"]["path"]), one["memcg"]["path"]}
        ]
        kmem = counters.get(path, {}).get("kmem")
        depth = len([part for part in path.split("/") if part])
        refused_here = sum(
            card["refused_by"] == path for one in reports for card in one["refusals"]["cards"]
        )
        rows.append(
            [
                Cell(path.rpartition("/")[2] or "/", indent=depth, mono=True),
                Cell(str(len(below)), number=True),
                Cell(_limit(kmem["limit"]) if kmem else "not recorded", number=True),
                Cell(
                    format_size(kmem["max_usage"]) if kmem else "not recorded",
                    number=True,
                    share=_share(kmem) if kmem else None,
                ),
                Cell(str(kmem["failcnt"]) if kmem else "not recorded", number=True),
                Cell(str(refused_here), number=True),
                Cell(str(sum(one["refusals"]["total"] for one in below)), number=True),
            ]
        )
    columns = [
        "memcg",
        "runs",
        "kmem limit",
        "at most",
        "failcnt",
        "cards",
        "refused below",
    ]
    return Table("", columns, rows)


def _table_of_cards(reports: Sequence[Mapping[str, Any]]) -> Table:
    zero = began(reports)
    cards = sorted(
        (card for one in reports for card in one["refusals"]["cards"]),
        key=lambda card: card["time"],
    )
    rows = [
        [
            Cell(f"{card['time'] - zero:.3f}", number=True),
            Cell(card["syscall"], mono=True),
            Cell(f"{card['comm']}[{card['pid']}]", mono=True),
            Cell(card["kind"]),
            Cell(format_size(card["nbytes"]), number=True),
            Cell(card["errno"]),
            Cell(card["memcg"], mono=True),
            Cell(f"{card['counter']} of {card['refused_by']}", mono=True),
            Cell(f"{format_size(card['usage'])} of {_limit(card['limit'])}", number=True),
        ]
        for card in cards
    ]
    total = sum(one["refusals"]["total"] for one in reports)
    note = f"{len(cards)} of {total} have a card" if total > len(cards) else ""
    columns = ["second", "call", "by", "kind", "size", "errno", "memcg", "refused by", "usage"]
    return Table("", columns, rows, note if rows else "nothing was refused")


def _table_of_kinds(reports: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for one in reports:
        for kind, row in one["kinds"].items():
            if row["charged"] or row["refused"]:
                rows.append(
                    [
                        Cell(one["memcg"]["path"], mono=True),
                        Cell(kind),
                        *(
                            Cell(str(row[name]), number=True)
                            for name in ("charged", "uncharged", "refused", "live", "live_peak")
                        ),
                        Cell(format_size(row["bytes_each"]), number=True),
                        Cell(format_size(row["bytes_each"] * row["live_peak"]), number=True),
                    ]
                )
    columns = ["memcg", "kind", "charged", "uncharged", "refused", "live", "live at most"]
    return Table("", [*columns, "each", "at most"], rows, "" if rows else "nothing was charged")


def _command(words: Sequence[str]) -> str:
    """Show a command in a line or two: programs given as text have many."""
    shown = " ".join(shlex.join(words).split()) or "(the image's own)"
    return shown if len(shown) <= _LONGEST_COMMAND else f"{shown[: _LONGEST_COMMAND - 4]} ..."


def _ended(report: Mapping[str, Any]) -> str:
    if report["exit_code"] is None:
        return "runs"
    reason = (report.get("ended") or {}).get("reason")
    if reason == "timeout" or report.get("timed_out"):
        return "at the timeout"
    ended = f"signal {report['signal']}" if report["signal"] else f"exit {report['exit_code']}"
    return ended if reason in (None, "exit", "signal") else f"{ended} ({reason})"


def _limit(limit: int) -> str:
    return format_size(limit) if is_limit(limit) else "none"


def _share(counter: Mapping[str, int]) -> float | None:
    limit = counter["limit"]
    return min(counter["max_usage"] / limit, 1.0) if is_limit(limit) and limit else None
