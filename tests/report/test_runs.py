"""The page of runs: it stands alone, and every figure on it is the reports' own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kmem_harness.core.errors import UnsupportedHostError
from kmem_harness.core.sizes import format_size
from kmem_harness.report.runs import render_html, write_html
from tests.report.pages import Reader, card, report


def test_page_when_made_then_needs_nothing_from_elsewhere():
    reader = Reader(text := render_html([report("/local/a")]))
    assert reader.fetched == []
    assert "plotly.js v" in text
    assert "@import" not in text[: text.index("plotly.js v")]


def test_page_when_made_then_holds_the_reports_as_they_were():
    reports = [
        report("/local/a"),
        report("/local/b", refusals={"total": 0, "first": None, "cards": []}),
    ]
    assert Reader(render_html(reports)).embedded["data"] == {"reports": reports, "memcgs": []}


def test_usage_figure_when_made_then_stacks_bytes_of_each_kind_at_each_second():
    traces = Reader(render_html([report("/local/a")])).traces
    assert traces.keys() == {
        "usage-0: task",
        "usage-0: thread",
        "usage-0: usage of the memcg",
        "usage-0: kmem limit 32.0K",
    }
    task, thread = traces["usage-0: task"], traces["usage-0: thread"]
    assert task["stackgroup"] == thread["stackgroup"]
    assert task["x"] == thread["x"] == [0.5, 0.75, 1.0, 1.5]
    assert task["y"] == [8192, 16384, 16384, 0]
    assert thread["y"] == [0, 0, 4096, 0]
    assert traces["usage-0: usage of the memcg"]["y"] == [8192, 16384, 20480, 0]
    assert traces["usage-0: kmem limit 32.0K"]["y"] == [32768, 32768]


def test_usage_figure_when_a_kind_was_found_to_be_another_then_is_drawn_while_it_was_not():
    one = report("/local/a")
    one["kinds"]["task"] |= {"charged": 0, "uncharged": 0}
    assert Reader(render_html([one])).traces["usage-0: task"]["y"] == [8192, 16384, 16384, 0]


def test_usage_figure_of_a_slice_when_two_boxes_overlap_then_adds_them_up():
    reports = [report("/web.slice/a"), report("/web.slice/b", began=1000.25)]
    slice_ = {
        "path": "/web.slice",
        "kmem": {"limit": 65536, "usage": 0, "max_usage": 36864, "failcnt": 0},
    }
    reader = Reader(render_html(reports, memcgs=[slice_]))
    (figure,) = [one for one in reader.embedded["figures"] if len(one["traces"]) == 3]
    task, thread, limit = figure["traces"]
    assert task["x"] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert task["y"] == [8192, 16384 + 8192, 16384 + 16384, 16384 + 16384, 16384, 0]
    assert thread["y"] == [0, 0, 4096, 8192, 4096, 0]
    assert limit["y"] == [65536, 65536]


def test_usage_figure_when_limit_is_far_above_then_says_so_and_stays_readable():
    far = report("/a")
    far["memcg"]["kmem"] = far["memcg"]["kmem"] | {"limit": 1 << 30}
    reader = Reader(render_html([far]))
    assert reader.embedded["figures"][0]["layout"]["yaxis"]["range"][1] < 40_000
    assert any("kmem limit 1.0G" in words for words in reader.words)


def test_refusals_when_marked_then_stand_where_and_when_they_were_with_their_cards():
    mine, further_up = (
        card("/s/a", 1000.75),
        card("/s/a", 1001.0, refused_by="/s", usage=50000, limit=50001),
    )
    one = report("/s/a", refusals={"total": 102, "first": mine, "cards": [mine, further_up]})
    reader = Reader(render_html([one]))
    slice_, own = reader.embedded["figures"]
    marks = {figure["name"]: figure["traces"][-1] for figure in (slice_, own)}
    assert (marks["usage-0"]["x"], marks["usage-0"]["y"]) == ([1.0], [50000])
    # On the chart of the memcg that asked, the ancestor's usage would be off the scale.
    assert (marks["usage-1"]["x"], marks["usage-1"]["y"]) == ([0.75, 1.0], [16384, 20480])
    assert "kmem of /s: 48.8K of 48.8K" in marks["usage-1"]["text"][1]
    assert any("100 later refusals have no card" in words for words in reader.words)
    assert "kmem limit 48.8K" in {trace["name"] for trace in slice_["traces"]}


def test_tables_when_made_then_repeat_the_reports():
    one = report(
        "/local/a", refusals={"total": 1, "first": None, "cards": [card("/local/a", 1000.75)]}
    )
    cells = Reader(render_html([one])).cells
    kmem = one["memcg"]["kmem"]
    assert [
        "sh -c 'exit 3'",
        "/local/a",
        "enforce",
        "exit 3",
        format_size(kmem["limit"]),
        format_size(kmem["max_usage"]),
        "1",
        "1.50",
    ] in cells
    for kind in ("task", "thread"):
        row = one["kinds"][kind]
        counts = [
            str(row[name]) for name in ("charged", "uncharged", "refused", "live", "live_peak")
        ]
        sizes = [format_size(row["bytes_each"]), format_size(row["bytes_each"] * row["live_peak"])]
        assert ["/local/a", kind, *counts, *sizes] in cells
    assert [
        "0.750",
        "clone",
        "sh[41]",
        "task",
        "8.0K",
        "ENOMEM",
        "/local/a",
        "kmem of /local/a",
        "16.0K of 16.0K",
    ] in cells
    assert not any(cell == "pipe" for row in cells for cell in row)


def test_page_when_a_command_looks_like_html_then_shows_it_as_text():
    evil = "</script><script>alert(1)</script>"
    one = report("/local/a", command=["sh", "-c", evil])
    reader = Reader(render_html([one], title=evil))
    assert reader.embedded["data"]["reports"][0]["command"][2] == evil
    assert any(evil in words for words in reader.words)


def test_page_when_nothing_was_counted_then_says_so():
    nothing = {"began": 0.0, "seconds": [], "usage": [], "refused": [], "live": {}}
    one = report("/local/a", timeline=nothing, kinds={}, mode="off")
    words = Reader(render_html([one])).words
    assert any("nothing was counted here" in word for word in words)


def test_page_when_a_library_is_missing_then_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UnsupportedHostError, match="plotly") as caught:
        render_html([report("/local/a")])
    assert caught.value.remedy == "pip install 'kmem-harness[report]'"


def test_write_html_when_it_cannot_be_put_in_place_then_leaves_nothing(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match=r"page\.html"):
        write_html(str(tmp_path / "page.html"), [report("/local/a")])
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_run_when_report_is_html_then_page_shows_what_the_json_report_would(tmp_path):
    path = tmp_path / "run.html"
    # A child that is long enough alive to be seen, and stays what it is: it executes nothing.
    script = "{ i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; } & wait"
    command = ["run", "--kmem-limit", "1M", "--report", path, "--", "sh", "-c", script]
    subprocess.run([sys.executable, "-m", "kmem_harness", *command], check=True)
    reader = Reader(path.read_text(encoding="utf-8"))
    (one,) = reader.embedded["data"]["reports"]
    assert json.loads(json.dumps(one))["kinds"]["task"]["charged"] == 1
    (figure,) = reader.embedded["figures"]
    task = figure["traces"][0]
    assert task["y"] == [
        one["kinds"]["task"]["bytes_each"] * live for live in one["timeline"]["live"]["task"]
    ]
