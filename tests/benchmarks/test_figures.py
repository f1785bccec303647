"""The benchmarks' own arithmetic: figures, ratios, what counts as lost, what is shown."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import show
from tests.benchmarks.loads import LOADS, Load, prepare
from tests.benchmarks.measure import Figures, Profile, measure, seconds_of_one
from tests.benchmarks.targets import TARGETS, losses, write_baseline


@pytest.fixture
def figures():
    made = Figures()
    for native, limited in ((10e-6, 11e-6), (20e-6, 24e-6), (10e-6, 12e-6), (10e-6, 13e-6)):
        made.add("fork", "native", native)
        made.add("fork", "limit", limited)
        made.add("fork", "limit tasks", native * 1.1)
        made.add("fork", "C loop, our filter", native)
    made.profiles["fork"] = (Profile(calls=8, user=0.1, system=0.1), 4)
    return made


def test_ratio_when_the_machine_is_busy_for_a_round_then_compares_within_the_round(figures):
    assert figures.ratio("fork", "limit") == pytest.approx(1.2)
    assert figures.median("fork", "native") == pytest.approx(10e-6)
    assert figures.ratio("fork", "strace") is None
    assert 0 < figures.spread("fork", "limit") < 1


def test_losses_when_a_ratio_is_a_fifth_worse_then_names_it(figures, tmp_path):
    baseline = tmp_path / "baseline.json"
    write_baseline(figures, baseline)
    kept = {"fork": {"limit": 1.2, "limit tasks": 1.1, "supervised calls": 2.0}}
    assert json.loads(baseline.read_text()) == kept
    assert losses(figures, baseline) == []
    before = {"limit": 0.99, "limit tasks": 0.91, "observe": 1.0, "supervised calls": 1.5}
    baseline.write_text(json.dumps({"fork": before, "pipe": {"limit": 1.0}}))
    assert losses(figures, baseline) == [
        "fork, limit: 1.20 x C loop, our filter, was 0.99",
        "fork, limit tasks: 1.10 x native, was 0.91",
        "fork, supervised calls: 2.00, was 1.50",
    ]


def test_targets_when_shown_then_say_held_missed_or_not_measured(figures):
    rows = show.targets(figures).splitlines()[1:]
    assert len(rows) == len(TARGETS)
    (row,) = [line for line in rows if line.endswith("fork, exit, wait under a limit to native")]
    assert row.split()[:3] == ["1.25", "1.20", "held"]
    measured = len(rows) - sum("not measured" in line for line in rows)
    assert measured == 2  # against native, and against the floor


def test_table_and_picture_when_drawn_then_have_each_way(figures, tmp_path):
    text = show.table(figures)
    assert "1.20 x native" in text
    show.picture(figures, tmp_path / "p.svg")
    first = (tmp_path / "p.svg").read_bytes()
    show.picture(figures, tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_bytes() == first
    assert b"svg" in first


def test_measure_when_run_then_interleaves_and_starts_elsewhere_each_round():
    asked = []

    def way(name):
        def run(command):
            asked.append(name)
            return f"ns={len(command)}000\n"

        return run

    load = Load("fork", "a fork", 100)
    ways = {name: way(name) for name in ("native", "limit")}
    found = measure([load], lambda _: ways, "load", rounds=2, share=0.5, tell=lambda _: None)
    assert asked == ["native", "limit", "limit", "native"]
    assert found.median("fork", "limit") == pytest.approx(3e-6)
    assert load.command("load", 0.5) == ["load", "fork", "50"]


def test_load_when_it_is_a_whole_command_then_is_timed_from_outside(tmp_path):
    load = LOADS["script"]
    assert seconds_of_one(load, lambda _: "", load.command("load")) >= 0
    assert load.command("load")[:2] == ["/bin/sh", "-ec"]
    prepare(tmp_path)
    assert len(list(tmp_path.glob("*.c"))) == 16


def test_measure_when_a_way_does_not_work_then_leaves_it_out_and_goes_on():
    told = []

    def fail(_):
        message = "exit 1"
        raise RuntimeError(message)

    ways = {"native": lambda _: "ns=1000\n", "peer": fail}
    load = Load("fork", "a fork", 100)
    found = measure([load], lambda _: ways, "load", rounds=3, share=1.0, tell=told.append)
    assert found.median("fork", "native") == pytest.approx(1e-6)
    assert found.median("fork", "peer") is None
    assert told[1:] == ["fork, peer: left out, exit 1"]
