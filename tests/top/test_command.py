"""The command, beside a harness that runs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

import pytest

from kmem_harness import Harness
from tests.harness.forker import TASK, Forker

TOP = [sys.executable, "-m", "kmem_harness", "top"]


@pytest.fixture
def harness(monkeypatch):
    """A harness that is the newest in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="kt", dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        with Harness("v4") as harness:
            yield harness


def test_top_when_json_then_prints_a_line_per_look_true_to_the_counters(harness):
    slice_ = harness.memcg("/web.slice", kmem_limit="1M")
    with Forker(harness, memcg=slice_.child("a", kmem_limit=3 * TASK)) as forker:
        assert forker.fork(5) == (3, "ENOMEM")
        command = [*TOP, "--json", "--count", "2", "--interval", "0.05", "--sort", "usage"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        report = forker.box.report()
        forker.finish()
    first, second = (json.loads(line) for line in shown.splitlines())
    assert first["kernel"] == "v4"
    assert first["time"] < second["time"]
    rows = {row["path"]: row for row in second["memcgs"]}
    assert rows.keys() == {"/", "/web.slice", "/web.slice/a"}
    assert rows["/web.slice/a"]["kmem"] == report["memcg"]["kmem"]
    assert rows["/web.slice"]["kmem"]["limit"] == 1 << 20
    assert rows["/web.slice"]["kinds"] == {"task": {"live": 3, "nbytes": 3 * TASK, "refused": 1}}
    assert rows["/"]["refused"] == 1
    assert rows["/"]["refused_per_second"] == 0


def test_top_when_there_are_more_memcgs_than_fit_a_packet_then_shows_all(harness):
    paths = {f"/many/{number:03}" for number in range(150)}
    for path in paths:
        harness.memcg(path)
    command = [*TOP, "--json", "--count", "1"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    listed = [row["path"] for row in json.loads(shown)["memcgs"]]
    assert listed == sorted({"/", "/many", *paths})


def test_top_when_its_reader_goes_away_then_ends_quietly(harness):
    with subprocess.Popen(
        [*TOP, "--json", "--interval", "0.05"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


def test_top_when_harness_ends_then_ends_too(harness):
    with subprocess.Popen(
        [*TOP, "--json", "--interval", "0.05"], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        harness.close()
        process.stdout.read()
        assert process.wait(30) == 0


def test_top_when_keys_are_pressed_on_a_terminal_then_sorts_shows_kinds_and_leaves(harness):
    ours, theirs = pty.openpty()
    with Forker(harness, kmem_limit=9 * TASK) as forker:
        forker.fork(2)
        # Whatever terminal the tests themselves have: a dumb one shows nothing that moves.
        terminal = {**os.environ, "TERM": "xterm"}
        with subprocess.Popen(
            TOP, stdin=theirs, stdout=theirs, stderr=theirs, env=terminal
        ) as process:
            os.close(theirs)
            seen = b""
            for expected, key in ((b"q quit", b"k"), (b"2 task", b"q")):
                deadline = time.monotonic() + 30
                while expected not in plain(seen) and time.monotonic() < deadline:
                    seen += os.read(ours, 65536)
                assert expected in plain(seen)
                os.write(ours, key)
            assert process.wait(30) == 0
        os.close(ours)
        forker.finish()


def test_top_when_the_terminal_is_dumb_then_prints_one_table_after_the_other(harness):
    ours, theirs = pty.openpty()
    harness.memcg("/web.slice", kmem_limit="1M")
    command = [*TOP, "--count", "2", "--interval", "0.05"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"}
    ) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # when nobody holds the other end any more
            while read := os.read(ours, 65536):
                seen += read
        assert process.wait(30) == 0
    os.close(ours)
    assert seen.count(b"/web.slice") == 2
    assert b"\x1b" not in seen


def plain(screen: bytes) -> bytes:
    """Leave out what colours and places the text."""
    kept, escaped = bytearray(), False
    for byte in screen:
        if byte == 0x1B:
            escaped = True
        elif escaped:
            escaped = not chr(byte).isalpha()
        else:
            kept.append(byte)
    return bytes(kept)


def test_top_when_no_harness_runs_then_says_how_to_start_one(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="kt", dir="/tmp") as directory:
        code = (
            "import kmem_harness.controller.owner.client as client, kmem_harness.cli as cli; "
            f"client.base_directories = lambda: [{directory!r}]; cli.main(['top'])"
        )
        outcome = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True
        )
    assert outcome.returncode == 2
    assert "no harness of yours is running; start one with kmem-harness run" in outcome.stderr
