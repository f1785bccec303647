"""Write what an experiment found: a summary, and where their libraries are, a page and a picture."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import UnsupportedHostError
from kmem_harness.experiments.engine import RESULTS, results_of, write_results
from kmem_harness.experiments.findings import size_of
from kmem_harness.experiments.store import Store
from kmem_harness.report.markdown import summary
from kmem_harness.report.page import Page, write_page
from kmem_harness.report.parts import Figure, Section
from kmem_harness.report.pictures import draw
from kmem_harness.report.runs import usage_figures
from kmem_harness.report.sweeps import experiment_sections, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["write_all"]

PAGE, PICTURE, SUMMARY = "report.html", "report.png", "summary.md"
#: Series whose runs around the knee are drawn: each picture holds a run's whole timeline.
_DRAWN = 6


def write_all(folder: str) -> tuple[list[str], list[str]]:
    """Write the files; give their paths, and what is missing for others.

    Raises: ConfigurationError if *folder* holds no results, OSError.
    """
    with Store(os.path.join(folder, RESULTS)) as store:
        results = results_of(store)
        page = _page(results, store)
    write_results(folder, results)
    written, missing, pictures = [], [], []
    try:
        if draw(results, os.path.join(folder, PICTURE)):
            pictures.append(PICTURE)
            written.append(os.path.join(folder, PICTURE))
    except UnsupportedHostError as error:
        missing.append(f"no picture: {error}; {error.remedy}")
    try:
        write_page(os.path.join(folder, PAGE), page)
        written.append(os.path.join(folder, PAGE))
    except UnsupportedHostError as error:
        missing.append(f"no page: {error}; {error.remedy}")
    path = os.path.join(folder, SUMMARY)
    with open(path, "w", encoding="utf-8") as file:
        file.write(summary(results, pictures))
    return [*written, path], missing


def _page(results: Mapping[str, Any], store: Store) -> Page:
    sections = experiment_sections(results)
    around = _around_the_knees(results, store)
    if around:
        sections.insert(-1, Section("Around the knee", list(around), "knee"))
    return Page(results["experiment"]["name"], sections, data=dict(results))


def _around_the_knees(results: Mapping[str, Any], store: Store) -> list[Figure]:
    """Draw a run at each knee, and one just below, as they went."""
    found: list[Figure] = []
    for curve in results["findings"]["curves"][:_DRAWN]:
        values = [point["value"] for point in curve["points"]]
        if curve["knee"] not in values:
            continue
        place = values.index(curve["knee"])
        for value in values[max(place - 1, 0) : place + 1]:
            runs = _runs_at(value, curve, results["runs"])
            # Below the knee some may have passed all the same: show one that did not.
            one = next((run for run in runs if not run["passed"]), runs[0])
            verdict = "passed" if one["passed"] else "failed"
            boxes = store.reports(one["key"])
            labels = {report["memcg"]["path"]: name for name, report in boxes.items()}
            for figure in usage_figures(list(boxes.values())):
                name = labels.get(figure.title, figure.title)
                found.append(
                    replace(
                        figure,
                        name=f"knee-{len(found)}",
                        title=f"{name_of(results, one['params'])}: {name}, {verdict}",
                    )
                )
    return found


def _runs_at(
    value: float, curve: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """List the runs of one point of a curve; its value may stand in them as text, such as ``8M``."""
    along, others = curve["along"], curve["params"]
    return [
        run
        for run in runs
        if run["params"] == {**others, along: run["params"].get(along)}
        and (size_of(run["params"][along]) or 0) == value
    ]
