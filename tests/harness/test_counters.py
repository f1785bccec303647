"""Counters read as people expect them to."""

from __future__ import annotations

import sys

from kmem_harness import Harness
from tests.support.command_line import CommandLine

SOCKETS = "import socket\nkept = []\nwhile True: kept.append(socket.socket())"
#: Its children fork as long as they live, and complain if they cannot; it ends before them.
LEAVES = """
import os, sys, time
for _ in range(4):
    if not os.fork():
        while True:
            try:
                pid = os.fork()
            except OSError as error:
                sys.exit(f"cannot fork: {error}")
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
time.sleep(0.3)
"""


def test_peaks_when_a_parent_refuses_then_none_is_above_its_parents():
    """A charge that the parent refused stayed in the peak of the child, as the kernel has it (K4)."""
    with Harness() as harness:
        parent = harness.memcg("/peaks", kmem_limit="64k")
        with harness.run([sys.executable, "-c", SOCKETS], memcg=parent.child("a")) as box:
            box.wait(timeout=30)
            report = box.report()
        assert report["refusals"]["first"]["refused_by"] == "/peaks"
        child = report["memcg"]["kmem"]["max_usage"]
        assert 0 < child <= parent.kmem.max_usage <= 64 << 10


def test_fault_when_injected_then_counts_as_that_and_not_as_refused(tmp_path):
    command_line = CommandLine(tmp_path)
    outcome = command_line.run(
        [sys.executable, "-c", SOCKETS],
        "--kmem-limit",
        "1M",
        "--inject",
        "socket:error=ENOMEM:when=3",
    )
    row = outcome.report["kinds"]["tcp-socket"]
    assert (row["refused"], row["injected"]) == (0, 1)
    assert " 1 injected, first socket" in outcome.stderr
    assert "refused" not in outcome.stderr


def test_calls_when_the_box_ends_then_their_callers_are_not_told_that_they_failed(tmp_path):
    command_line = CommandLine(tmp_path)
    for _ in range(3):
        outcome = command_line.run([sys.executable, "-c", LEAVES], "--kmem-limit", "8M")
        assert outcome.status == 0
        assert "cannot fork" not in outcome.stderr
        assert outcome.report["refusals"]["total"] == 0
