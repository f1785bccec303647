"""Say in Markdown what an experiment found: for a comment on a change, or a job's summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.report.sweeps import name_of, runs_passed, show_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["summary"]

_SHOWN = 5


def summary(results: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """Write the summary of *results*; *pictures* are paths, relative to where it will stand."""
    shape, findings, runs = results["experiment"], results["findings"], results["runs"]
    failed = [one for one in runs if not one["passed"]]
    lines = [
        f"### {shape['name']}",
        "",
        f"{runs_passed(results)} of {len(runs)} runs passed, kernel {shape['kernel']}.",
    ]
    if findings["curves"]:
        lines += ["", *_curves(results)]
    if findings["matrix"]:
        lines += ["", *_matrix(findings["matrix"])]
    if failed and not findings["curves"]:
        lines += ["", "Failed:", ""]
        for one in failed[:_SHOWN]:
            name = name_of(results, {**one["params"], **one["pair"]}) or "the run"
            lines.append(f"- {_plain(name)}: {_plain('; '.join(one['reasons']))}")
        if len(failed) > _SHOWN:
            lines.append(f"- and {len(failed) - _SHOWN} more")
    for picture in pictures:
        lines += ["", f"![{shape['name']}]({picture})"]
    return "\n".join(lines) + "\n"


def _curves(results: Mapping[str, Any]) -> list[str]:
    rows = []
    for curve in results["findings"]["curves"]:
        knee, along = curve["knee"], curve["along"]
        name = name_of(results, curve["params"]) or along
        found = "none" if knee is None else f"{show_value(results, along, knee)} ({knee:g})"
        if curve.get("lowest_passes"):
            found = f"{found}, the lowest tried: a smaller one may pass, too"
        runs = sum(point["runs"] for point in curve["points"])
        rows.append([_plain(name), found, str(runs)])
    along = results["findings"]["curves"][0]["along"]
    return _table(["series", f"smallest {along} that passes", "runs"], rows)


def _matrix(matrix: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            _plain(victim),
            *(
                "unknown" if ratio is None else f"{ratio:.2f}x" if good else f"**{ratio:.2f}x**"
                for ratio, good in zip(ratios, passed, strict=True)
            ),
        ]
        for victim, ratios, passed in zip(
            matrix["boxes"], matrix["ratios"], matrix["passed"], strict=True
        )
    ]
    heads = ["p99 of victim", *(f"beside {_plain(name)}" for name in matrix["boxes"])]
    return [
        *_table(heads, rows),
        "",
        f"Bold is more than {matrix['bound']:g}x, or failed requests.",
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(text: str) -> str:
    """Keep what a program said from being taken for Markdown."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
