"""A recording: every charge in its place, in few writes, and losses counted."""

from __future__ import annotations

import json
import os
import sys

import pytest

from kmem_harness import Harness
from kmem_harness.core.errors import ConfigurationError
from tests.harness.forker import TASK, Forker


@pytest.fixture
def harness():
    with Harness("v4") as harness:
        yield harness


def record(harness, path, orders, **options):
    """Give the lines recorded while a target forks and reaps as *orders* say."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Forker(harness, events=fd, events_all=True, **options) as forker:
        os.close(fd)
        for order, count in orders:
            getattr(forker, order)(count)
        forker.finish()
        report = forker.box.report()
    return [json.loads(line) for line in path.read_text().splitlines()], report


def test_recording_when_observed_then_has_each_charge_with_the_usage_after_it(harness, tmp_path):
    orders = [("fork", 3), ("reap", 2), ("fork", 4)]
    slice_ = harness.memcg("/web.slice")
    box = slice_.child("a")
    lines, report = record(harness, tmp_path / "e", orders, mode="observe", memcg=box)
    first, *charges, last = lines
    assert first["memcgs"] == ["/web.slice/a", "/web.slice", "/"]
    assert (first["event"], first["version"], first["kernel"]) == ("recording.began", 1, "v4")
    assert [row[5] // TASK for row in charges[:3]] == [1, 2, 3]
    assert max(row[5] for row in charges) == 5 * TASK == report["memcg"]["kmem"]["max_usage"]
    assert len(charges) == 7 == report["kinds"]["task"]["charged"]
    assert {len(row) for row in charges} == {8}
    assert all(row[1] > 0 and row[3:5] == ["task", TASK] for row in charges)
    assert all(row[6] == row[5] for row in charges)
    assert [row[0] for row in charges] == sorted(row[0] for row in charges)
    assert last == {"event": "recording.ended", "charges": 7, "lost": 0}


def test_recording_when_a_call_is_refused_then_its_card_stands_among_the_charges(harness, tmp_path):
    orders = [("fork", 3), ("reap", 1), ("fork", 1)]
    lines, _ = record(harness, tmp_path / "e", orders, kmem_limit=2 * TASK)
    kinds = ["charge" if isinstance(line, list) else line["event"] for line in lines]
    assert kinds == [
        *("recording.began", "charge", "charge", "charge.refused", "charge"),
        "recording.ended",
    ]


def test_recording_when_file_is_full_then_lost_ones_are_counted(harness):
    full = os.open("/dev/full", os.O_WRONLY)
    with Forker(harness, events=full, events_all=True, mode="observe") as forker:
        os.close(full)
        forker.fork(3)
        forker.finish()
        report = forker.box.report()
    # The first line, and what was flushed by now.
    assert report["events_lost"] >= 1


def test_recording_when_box_has_no_limit_then_is_refused_with_the_reason(harness, tmp_path):
    with (tmp_path / "e").open("ab") as file, pytest.raises(ConfigurationError, match="observe"):
        harness.run(["true"], events=file.fileno(), events_all=True)
    assert harness.controller.request("boxes")["boxes"] == []


def test_recording_when_use_grows_and_grows_then_peaks_that_hardly_differ_are_not_looked_at(
    tmp_path,
):
    """Each look costs as much as what there is by then: of thousands, that took most of the time."""
    code = "import os\nheld = [os.eventfd(0) for _ in range(900)]"
    path = tmp_path / "e"
    with Harness("5.10") as harness, path.open("ab") as file:
        options = {"events": file.fileno(), "events_all": True, "kinds": ["anon-file"]}
        with harness.run(
            [sys.executable, "-I", "-S", "-c", code], mode="observe", **options
        ) as box:
            assert box.wait(timeout=60) == 0
            report = box.report()
    assert report["kinds"]["anon-file"]["charged"] == 900
    assert report["census"]["count"] < 500
