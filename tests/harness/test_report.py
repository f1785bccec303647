"""The report: every key that is promised, with its type, and figures that agree."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from kmem_harness import RefusalCard
from tests.harness.forker import TASK, Forker, python

COUNTER = {"limit": int, "usage": int, "max_usage": int, "failcnt": int}
KIND = {
    "charged": int,
    "uncharged": int,
    "refused": int,
    "live_peak": int,
    "bytes_each": int,
    "live": int,
}
CARD = {
    "time": float,
    "pid": int,
    "tid": int,
    "comm": str,
    "syscall": str,
    "kind": str,
    "nbytes": int,
    "errno": str,
    "memcg": str,
    "refused_by": str,
    "counter": str,
    "usage": int,
    "limit": int,
    "live": {"task": int},
    # Beyond the promise:
    "box": str,
    "holders": list,
}
REPORT = {
    "version": int,
    "runtime": str,
    "kernel": str,
    "command": list,
    "exit_code": int,
    "signal": type(None),
    "wall_seconds": float,
    "mode": str,
    "memcg": {"path": str, "kmem": COUNTER, "memory": COUNTER},
    "kinds": {"task": KIND, "thread": KIND},
    "refusals": {"total": int, "first": CARD, "cards": list, "by": dict},
    "notifications": int,
    "interrupted": int,
    # Beyond the promise:
    "isolation": str,
    "census": {"count": int, "seconds": float},
    "partial": list,
    "events_lost": int,
    "timeline": {"began": float, "seconds": list, "usage": list, "refused": list, "live": dict},
    "controller_died": bool,
    "holders": list,
    "peak": {"usage": int, "holders": list},
    "ended": {"reason": str, "card": type(None)},
}


def assert_shape(value, shape, where="report"):
    if isinstance(shape, dict):
        assert value.keys() == shape.keys(), where
        for name, inner in shape.items():
            assert_shape(value[name], inner, f"{where}.{name}")
    else:
        assert type(value) is shape, f"{where} is {value!r}"


def test_report_when_a_limit_was_met_then_has_every_promised_key(harness):
    began = time.time()
    with Forker(harness, kmem_limit=3 * TASK) as forker:
        assert forker.fork(5) == (3, "ENOMEM")
        running = forker.box.report()
        assert running["memcg"]["kmem"]["usage"] == 3 * TASK
        assert running["exit_code"] is None
        forker.finish()
        report = forker.box.report()
        cards = forker.box.refusals
        command = forker.box.report()["command"]
    assert_shape(report, REPORT)
    assert json.loads(json.dumps(report)) == report
    assert report["version"] == 1
    assert (report["runtime"], report["kernel"], report["mode"]) == ("local", "v4", "enforce")
    assert report["command"] == command
    assert (report["exit_code"], report["signal"]) == (0, None)
    assert 0 < report["wall_seconds"] < 30
    kmem = report["memcg"]["kmem"]
    assert kmem == {"limit": 3 * TASK, "usage": 0, "max_usage": 3 * TASK, "failcnt": 1}
    assert report["memcg"]["memory"]["limit"] == -1
    assert report["kinds"]["task"] == {
        "charged": 3,
        "uncharged": 3,
        "refused": 1,
        "live": 0,
        "live_peak": 3,
        "bytes_each": TASK,
    }
    assert report["notifications"] == 4
    assert report["refusals"]["total"] == 1
    card = report["refusals"]["first"]
    assert report["refusals"]["cards"] == [card]
    assert began <= card["time"] <= time.time()
    assert card["pid"] == card["tid"] > 0
    assert card["comm"].startswith("python")
    assert card["syscall"] in {"clone", "clone3", "fork", "vfork"}
    assert (card["kind"], card["nbytes"], card["errno"]) == ("task", TASK, "ENOMEM")
    assert card["memcg"] == card["refused_by"] == report["memcg"]["path"]
    assert (card["counter"], card["usage"], card["limit"]) == ("kmem", 3 * TASK, 3 * TASK)
    assert card["live"] == {"task": 3}
    assert cards == [RefusalCard(**card)]
    assert cards[0]["errno"] == cards[0].errno == "ENOMEM"


def test_report_when_nothing_was_refused_then_first_is_none(harness):
    with harness.run(["sh", "-c", "true & wait"], kmem_limit="1M") as box:
        assert box.wait(timeout=30) == 0
        report = box.report()
    assert report["refusals"] == {"total": 0, "first": None, "cards": [], "by": {}}
    assert report["kinds"]["task"]["charged"] == 1
    assert report["memcg"]["kmem"]["failcnt"] == 0
    assert box.report() == report  # after it is closed, too


def test_report_when_target_was_killed_then_names_the_signal(harness):
    with harness.run(["sh", "-c", "kill -9 $$"], kmem_limit="1M") as box:
        box.wait(timeout=30)
        assert (box.report()["exit_code"], box.report()["signal"]) == (137, 9)


def test_report_when_box_is_free_then_mode_is_off(harness):
    with harness.run(["sh", "-c", "true & wait"]) as box:
        box.wait(timeout=30)
        report = box.report()
    assert report["mode"] == "off"
    assert report["notifications"] == 0
    assert report["memcg"]["kmem"] == {"limit": -1, "usage": 0, "max_usage": 0, "failcnt": 0}


def test_card_when_a_thread_is_refused_then_pid_is_its_process_and_tid_its_own(harness):
    code = """
import _thread, os, time
lock = _thread.allocate_lock()
lock.acquire()
def inner():
    try:
        os.fork()
    except OSError:
        print(_thread.get_native_id() != os.getpid())
    lock.release()
_thread.start_new_thread(inner, ())
lock.acquire()
"""
    with harness.run(python(code), kmem_limit=TASK) as box:
        assert box.wait(timeout=30) == 0
        (card,) = box.refusals
        assert (
            box.report()["kinds"]["thread"]["charged"] + box.report()["kinds"]["task"]["charged"]
            == 1
        )
    assert card.tid != card.pid
    assert card.kind == "task"


@pytest.mark.parametrize("many", [100, 250])
def test_events_when_more_are_refused_than_cards_are_kept_then_file_has_all(
    many, harness, tmp_path
):
    path = tmp_path / "events.jsonl"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Forker(harness, kmem_limit=TASK, events=fd) as forker:
        os.close(fd)
        assert forker.fork(1) == (1, None)
        for _ in range(many):
            assert forker.fork(1) == (0, "ENOMEM")
        forker.finish()
        report = forker.box.report()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(events) == many == report["refusals"]["total"]
    assert len(report["refusals"]["cards"]) == 100
    assert {event.pop("event") for event in events} == {"charge.refused"}
    assert events[:100] == report["refusals"]["cards"]
    assert report["events_lost"] == 0
    for event in events:
        assert_shape(event, CARD, "event")


def test_events_when_file_is_full_then_lost_ones_are_counted(harness):
    with (
        Path("/dev/full").open("ab") as full,
        Forker(harness, kmem_limit=TASK, events=full.fileno()) as forker,
    ):
        assert forker.fork(3) == (1, "ENOMEM")
        forker.finish()
        report = forker.box.report()
    assert report["events_lost"] == report["refusals"]["total"] == 1


def test_timeline_when_a_limit_was_met_then_rises_to_it_and_ends_at_nothing(harness):
    with Forker(harness, kmem_limit=3 * TASK) as forker:
        assert forker.fork(5) == (3, "ENOMEM")
        forker.reap(2)
        forker.finish()
        report = forker.box.report()
    timeline = report["timeline"]
    seconds, usage = timeline["seconds"], timeline["usage"]
    assert abs(timeline["began"] - time.time()) < 60
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] <= report["wall_seconds"] + 1
    assert max(usage) == report["memcg"]["kmem"]["max_usage"] == 3 * TASK
    assert usage[-1] == 0
    assert usage == [TASK * live for live in timeline["live"]["task"]]
    assert timeline["refused"] == sorted(timeline["refused"])
    assert timeline["refused"][-1] == report["refusals"]["total"] == 1
    assert len(seconds) == len(usage) == len(timeline["refused"])


def test_timeline_when_a_box_only_waits_then_is_looked_at_all_the_same(harness):
    with harness.run(["sh", "-c", "sleep 1 & wait"], kmem_limit=9 * TASK) as box:
        assert box.wait(timeout=30) == 0
        timeline = box.report()["timeline"]
    waited = [
        at for at, live in zip(timeline["seconds"], timeline["live"]["task"], strict=True) if live
    ]
    assert waited[-1] - waited[0] > 0.2
