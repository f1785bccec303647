"""Predictions from a recording: exact for what repeats, and plain about what they rest on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time

import pytest

from kmem_harness import Harness
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.experiments.recorded import Recorded
from kmem_harness.experiments.what_if import predict
from tests.harness.forker import TASK, Forker

HEAD = {
    "event": "recording.began",
    "version": 1,
    "kernel": "v4",
    "began": 100.0,
    "memcgs": ["/a", "/"],
}
END = {"event": "recording.ended", "charges": 0, "lost": 0}


def write(path, usages, head=HEAD, end=END):
    """Write a recording of one charge of a page for each of *usages*."""
    rows = [[0.5 * number, 7, "clone", "task", 4096, *usage] for number, usage in enumerate(usages)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *rows, end) if line))
    return path


def test_predict_when_limit_is_passed_then_names_the_first_charge_past_it(tmp_path):
    usages = [4096, 8192, 4096, 8192, 12288, 16384, 8192]
    prediction = predict([write(tmp_path / "e", [(usage, usage) for usage in usages])])
    assert (prediction.memcg, prediction.charges, prediction.peak) == ("/a", 7, 16384)
    assert prediction.smallest_limit == 16384
    for limit in range(4096, 20480, 512):
        held = -(-limit // 4096) * 4096  # v4 rounds a limit up
        expected = next((at for at, usage in enumerate(usages, 1) if usage > held), None)
        found = prediction.first_refused(limit)
        assert (found and found.number) == expected, limit
    first = prediction.first_refused(8192)
    assert (first.seconds, first.tid, first.syscall, first.kind, first.usage) == (
        2.0,
        7,
        "clone",
        "task",
        12288,
    )


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 9))]
)
def test_predict_when_limits_are_met_for_real_then_the_same_charge_is_refused(tmp_path, seed):
    """The promise itself: record once, then run under limits, and compare call for call."""
    chance = random.Random(seed)  # noqa: S311
    orders, alive = [], 0
    for _ in range(12):
        forks = chance.randrange(1, 6)
        reaps = chance.randrange(0, min(alive + forks, 5) + 1)
        alive += forks - reaps
        orders += [("fork", forks), ("reap", reaps)]

    def run(harness, path, **options):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        with Forker(harness, events=fd, events_all=True, **options) as forker:
            os.close(fd)
            for order, count in orders:
                if order == "fork" and forker.fork(count)[1] is not None:
                    break  # the first refusal; what comes now is another story
                if order == "reap" and count:
                    forker.reap(count)
            forker.finish()

    with Harness("v4") as harness:
        run(harness, tmp_path / "recorded", mode="observe")
        prediction = predict([tmp_path / "recorded"])
        assert prediction.peak > 4 * TASK
        # Every limit there is where there is time for it, and every third here.
        step = TASK if seed else 3 * TASK
        for limit in range(TASK, prediction.peak + 2 * TASK, step):
            run(harness, tmp_path / "real", kmem_limit=limit)
            lines = [json.loads(line) for line in (tmp_path / "real").read_text().splitlines()]
            refused = [at for at, line in enumerate(lines) if isinstance(line, dict)][1]
            really = refused if lines[refused]["event"] == "charge.refused" else None
            expected = prediction.first_refused(limit)
            assert (expected and expected.number) == really, limit


def test_predict_when_boxes_share_a_slice_then_finds_the_charge_among_all(tmp_path):
    first = HEAD | {"memcgs": ["/s/a", "/s", "/"]}
    second = HEAD | {"memcgs": ["/s/b", "/s", "/"], "began": 100.25}
    write(tmp_path / "a", [(4096, 4096, 4096), (8192, 12288, 12288)], first)
    write(tmp_path / "b", [(4096, 8192, 8192), (8192, 16384, 16384)], second)
    prediction = predict([tmp_path / "b", tmp_path / "a"])
    assert prediction.memcg == "/s"
    assert [prediction.first_refused(limit).number for limit in (4096, 8192, 12288)] == [2, 3, 4]
    assert prediction.first_refused(16384) is None
    assert predict([tmp_path / "a"], "/s/a").peak == 8192


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"e:1: not a recording of charges; make one with"),
        ('{"event": "charge.refused"}\n', r"e:1: not a recording"),
        (json.dumps(HEAD | {"version": 2}) + "\n", r"e:1: recording version 2, .* reads version 1"),
        (json.dumps({**HEAD, "memcgs": None}) + "\n", r"e:1: a recording's first line lacks"),
        (json.dumps(HEAD) + "\n[1,2]\n", r"e:2: not a charge: \[1, 2\]"),
        (json.dumps(HEAD) + '\n[0,1,"clone","task",4096,4096,4096]\n[oops\n', r"e:3: not JSON"),
    ],
)
def test_predict_when_file_is_not_a_recording_then_names_file_and_line(tmp_path, text, message):
    (tmp_path / "e").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        predict([tmp_path / "e"])


def test_predict_when_memcg_is_not_in_it_then_says_which_are(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no usage of '/b'; it has /a, /"):
        predict([write(tmp_path / "e", [(1, 1)])], "/b")


def test_predict_when_recording_may_mislead_then_says_why(tmp_path):
    cut = write(tmp_path / "cut", [(4096, 4096)], end=None)
    with cut.open("a") as file:
        file.write('[0.9,7,"clo')
    assert ["ends early" in one for one in predict([cut]).caveats] == [True]
    lossy = write(tmp_path / "lossy", [(4096, 4096)], end=END | {"lost": 3})
    assert ["lost 3 charges" in one for one in predict([lossy]).caveats] == [True]
    late = write(tmp_path / "late", [(8192, 8192)])
    assert ["held 4096 bytes already" in one for one in predict([late]).caveats] == [True]
    assert predict([write(tmp_path / "fine", [(4096, 4096)])]).caveats == []


def test_recorded_when_longer_than_a_batch_then_gives_every_row_in_order(tmp_path):
    path = write(tmp_path / "e", [(number, number) for number in range(10_000)])
    recorded = Recorded(str(path))
    assert [row[5] for row in recorded.charges()] == list(range(10_000))
    assert recorded.whole


def test_what_if_command_when_asked_then_says_where_each_limit_would_refuse(tmp_path):
    path = write(tmp_path / "e", [(4096, 4096), (8192, 8192), (12288, 12288)])
    command = [sys.executable, "-m", "kmem_harness", "what-if", path]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "smallest limit that refuses nothing: 12288 (12.0K)" in shown
    asked = [*command, "--kmem-limit", "8k", "--kmem-limit", "1M", "--json"]
    found = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    assert found["limits"]["8k"]["number"] == 3
    assert found["limits"]["1M"] is None
    assert len(found["records"]) == 3


@pytest.mark.slow
def test_predict_when_a_million_charges_were_recorded_then_takes_under_three_seconds(tmp_path):
    chance = random.Random(0)  # noqa: S311
    usage = 0
    with (tmp_path / "e").open("w") as file:
        file.write(json.dumps(HEAD) + "\n")
        for number in range(1_000_000):
            usage = max(usage - 4096 * chance.randrange(3), 0) + 4096
            file.write(f'[{number / 1e4:.6f},7,"clone","task",4096,{usage},{usage}]\n')
        file.write(json.dumps(END) + "\n")
    began = time.perf_counter()
    assert predict([tmp_path / "e"]).charges == 1_000_000
    assert time.perf_counter() - began < 3
