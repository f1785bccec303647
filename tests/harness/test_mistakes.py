"""A mistake of ours at one box's call ends that box, says so, and leaves the others alone."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from kmem_harness import Harness
from kmem_harness.controller.owner import start

PYTHON = [sys.executable, "-I", "-S", "-c"]
VICTIM = """
import os
os.mkdir(f"/tmp/kmem-mistake-{os.getpid()}")
print("went on")
"""
OTHER = """
import os, sys
for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    print("made one", flush=True)
"""
#: What a reader of the target's own words may turn out not to have thought of.
PLANTED = """
import kmem_harness.procfs.names as names
def stumble(*_):
    raise RuntimeError("planted")
names._place = stumble
"""


@pytest.mark.parametrize("isolation", ["user", "none"])
def test_box_when_its_call_makes_the_controller_fail_then_it_alone_ends(
    isolation, monkeypatch, capfd
):
    monkeypatch.setattr(
        start, "_START", start._START.replace("; from", f"; exec({PLANTED!r}); from")
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        Harness("5.10", isolation=isolation) as harness,
        harness.run([*PYTHON, OTHER], kmem_limit="64M", **pipes) as other,
    ):
        with harness.run([*PYTHON, VICTIM], kmem_limit="64M", stdout=subprocess.PIPE) as victim:
            said, _ = victim.communicate(timeout=30)
            status = victim.wait(timeout=30)
        assert (said, status.signal) == (b"", signal.SIGKILL)
        report = victim.report()
        assert report["partial"] == [
            "ended by its controller, which failed at one of its calls: RuntimeError('planted')"
        ]
        assert report["memcg"]["kmem"]["usage"] == 0
        assert not report["controller_died"]
        assert "RuntimeError: planted" in capfd.readouterr().err
        other.running.stdin.write(b"go\n")
        other.running.stdin.flush()
        assert other.running.stdout.readline() == b"made one\n"
        assert other.report()["partial"] == []
