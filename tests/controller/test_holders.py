"""Who holds most: at each refusal, at the peak, and now."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kmem_harness import Harness

CODE = """
import os, signal, socket, sys
r, w = os.pipe()
child = os.fork()
if not child:
    kept = [os.pipe() for _ in range(20)]
    os.write(w, b"x")
    signal.pause()
os.read(r, 1)
print(os.getpid(), child, flush=True)
sys.stdin.readline()
kept = []
try:
    while True:
        kept.append(socket.socket())
except OSError:
    print("refused", flush=True)
sys.stdin.readline()
os.kill(child, 9)
"""


@pytest.fixture
def box():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-I", "-S", "-c", CODE]
    with Harness() as harness, harness.run(command, kmem_limit="1M", **pipes) as one:
        one.running.stdout.readline()
        yield one


def go_on(box):
    box.running.stdin.write(b"\n")
    box.running.stdin.flush()


def test_holders_when_a_box_runs_then_names_processes_by_what_they_hold(box):
    child, parent = box.report()["holders"]
    assert child["kinds"]["pipe"] == 20
    assert child["fds"]["pipe"][:2] == [5, 7]
    assert child["comm"].startswith("python")
    assert parent["kinds"].get("pipe", 0) <= 3
    assert child["nbytes"] > parent["nbytes"] > 0


def test_holders_when_a_call_is_refused_then_its_card_and_the_peak_name_them(box):
    go_on(box)
    assert box.running.stdout.readline() == b"refused\n"
    (card,) = box.refusals
    most = card["holders"][0]
    assert most["pid"] == card["pid"]
    assert most["kinds"]["tcp-socket"] > 100
    assert card["holders"][1]["kinds"]["pipe"] == 20
    peak = box.report()["peak"]
    assert peak["holders"][0]["pid"] == card["pid"]
    assert peak["usage"] == pytest.approx(box.memcg.kmem.max_usage, rel=0.02)
    go_on(box)
    box.wait(timeout=30)
    report = box.report()
    assert report["holders"] == []
    assert report["peak"] == peak
