"""Pages, pictures and summaries of an experiment: every figure is the results' own."""

from __future__ import annotations

import copy
import sys

import pytest

from kmem_harness.core.errors import UnsupportedHostError
from kmem_harness.report.markdown import summary
from kmem_harness.report.page import Page
from kmem_harness.report.pictures import draw
from kmem_harness.report.sweeps import experiment_sections
from tests.report.pages import Reader


def point(value, passed, refused, p99=None):
    return {
        "value": value,
        "runs": 3,
        "passed": passed,
        "pass_rate": passed / 3,
        "refused": refused,
        "max_usage": 4096 * passed,
        "p99": p99,
    }


def one_run(**more):
    box = {"refused": 2, "kmem": {"limit": 8192, "usage": 0, "max_usage": 5000, "failcnt": 2}}
    return {
        "key": "k",
        "params": {"n": 1, "limit": 65536},
        "pair": {},
        "repeat": 0,
        "passed": False,
        "reasons": ["web ended | with *exit* code 1"],
        "seconds": 1.25,
        "worker": "host:1",
        "latency": {},
        "boxes": {"web": box},
    } | more


SHAPE = {
    "name": "sweep",
    "kernel": "5.10",
    "repeats": 3,
    "boxes": [{"name": "web", "kmem_limit": "{limit}", "memory_limit": None}],
    "memcgs": {},
}
CURVES = [
    {
        "params": {"n": 1},
        "along": "limit",
        "points": [point(65536, 1, 2.5), point(98304, 3, 0, 0.25), point(131072, 3, 0, 0.125)],
        "knee": 98304,
    },
    {"params": {"n": 2}, "along": "limit", "points": [point(131072, 0, 7.0)], "knee": None},
]
SWEEP = {
    "version": 1,
    "experiment": SHAPE,
    "runs": [one_run()],
    "findings": {"curves": CURVES, "matrix": None},
}
MATRIX = {
    "version": 1,
    "experiment": SHAPE,
    "runs": [one_run(params={}, pair={"victim": "web", "aggressor": "db"})],
    "findings": {
        "curves": [],
        "matrix": {
            "boxes": ["web", "db"],
            "bound": 2.0,
            "ratios": [[1.0, 3.456], [None, 1.5]],
            "passed": [[True, False], [None, True]],
        },
    },
}


def page_of(results):
    return Reader(Page("t", experiment_sections(results), data=results).render())


def test_curves_when_drawn_then_hold_the_points_of_the_findings():
    traces = page_of(SWEEP).traces
    for key in ("pass_rate", "refused", "p99"):
        for curve in CURVES:
            points = [one for one in curve["points"] if one[key] is not None]
            trace = traces.get(f"curve-{key}: n={curve['params']['n']}")
            assert (trace is not None) == bool(points), key
            if points:
                assert trace["x"] == [one["value"] for one in points]
                assert trace["y"] == [one[key] for one in points]


def test_curves_when_there_is_a_knee_then_it_is_marked_on_each():
    traces = page_of(SWEEP).traces
    marks = {
        key: traces[f"curve-{key}: knee: from here on all pass"]
        for key in ("pass_rate", "refused", "p99")
    }
    assert {key: (mark["x"], mark["y"]) for key, mark in marks.items()} == {
        "pass_rate": ([98304], [1.0]),
        "refused": ([98304], [0]),
        "p99": ([98304], [0.25]),
    }


def test_tables_when_made_then_repeat_findings_and_runs():
    cells = page_of(SWEEP).cells
    assert ["n=1", "96K", "98304", "64K, 1 of 3 passed", "12.0K", "9"] in cells
    assert ["n=2", "none", "", "128K, 0 of 3 passed", "", "3"] in cells
    assert [
        "n=1, limit=64K",
        "1",
        "failed",
        "2",
        "4.9K",
        "1.25",
        "web ended | with *exit* code 1",
    ] in cells


def test_heat_map_when_drawn_then_holds_the_ratios_and_says_what_is_too_much():
    (figure,) = page_of(MATRIX).embedded["figures"]
    (trace,) = figure["traces"]
    assert trace["z"] == [[1.0, 3.456], [None, 1.5]]
    assert trace["text"] == [["1.00x", "3.46x<br>too much"], ["unknown", "1.50x"]]
    assert (trace["x"], trace["y"]) == (["web", "db"], ["web", "db"])


@pytest.mark.parametrize("results", [SWEEP, MATRIX])
def test_page_when_made_then_no_two_parts_share_an_id(results):
    text = Page("t", experiment_sections(results), data=results).render()
    ids = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_summary_when_written_then_says_the_knees_and_escapes_what_programs_said():
    text = summary(SWEEP, ["report.png"])
    assert "0 of 1 runs passed, kernel 5.10." in text
    assert "| n=1 | 96K (98304) | 9 |" in text
    assert "| n=2 | none | 3 |" in text
    assert "![sweep](report.png)" in text
    text = summary(MATRIX)
    assert "| web | 1.00x | **3.46x** |" in text
    assert "| db | unknown | 1.50x |" in text
    assert r"web ended \| with \*exit\* code 1" in text


@pytest.mark.parametrize("results", [SWEEP, MATRIX])
def test_picture_when_drawn_then_is_a_png(results, tmp_path):
    assert draw(results, str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_picture_when_nothing_was_found_then_is_not_drawn(tmp_path):
    results = copy.deepcopy(SWEEP)
    results["findings"]["curves"] = []
    assert not draw(results, str(tmp_path / "p.png"))
    assert not (tmp_path / "p.png").exists()
    assert "0 of 1 runs passed" in summary(results)


def test_picture_when_matplotlib_is_missing_then_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedHostError, match="matplotlib"):
        draw(SWEEP, str(tmp_path / "p.png"))
