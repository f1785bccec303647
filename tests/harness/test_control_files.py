"""Control files of a running harness: through the client, and from a second terminal."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from kmem_harness import Harness
from kmem_harness.cli import main
from kmem_harness.controller.owner import client
from tests.controller.raw import connect
from tests.harness.forker import TASK, Forker

ROOT = Path(sys.modules["kmem_harness"].__file__).parent.parent


@pytest.fixture
def alone(monkeypatch):
    """Give a harness in a directory of its own, so that the command line finds no other."""
    with tempfile.TemporaryDirectory(prefix="kmem-") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        monkeypatch.setenv("TMPDIR", directory)
        with Harness("v4") as harness:
            yield harness
        assert not list(Path(directory).iterdir())


def kmem_harness(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "kmem_harness", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_files_when_read_and_written_then_are_those_of_the_kernel(harness):
    with Forker(harness, memcg="/files/box", kmem_limit=3 * TASK) as forker:
        memcg = forker.box.memcg
        assert forker.fork(5) == (3, "ENOMEM")
        assert memcg.read("memory.kmem.usage_in_bytes") == str(3 * TASK)
        assert memcg.read("memory.kmem.max_usage_in_bytes") == str(3 * TASK)
        assert memcg.read("memory.kmem.failcnt") == "1"
        assert memcg.read("memory.kmem.limit_in_bytes") == str(3 * TASK)
        memcg.write("memory.kmem.failcnt", "0")
        assert memcg.kmem.failcnt == 0
        forker.reap(2)
        assert memcg.read("memory.kmem.usage_in_bytes") == str(TASK)
        memcg.write("memory.kmem.max_usage_in_bytes", "0")
        assert memcg.kmem.max_usage == TASK
        memcg.write("memory.kmem.limit_in_bytes", "64k")
        assert memcg.kmem.limit == 64 << 10
        forker.finish()
    for file, value, number in [
        ("memory.kmem.limit_in_bytes", "lots", errno.EINVAL),
        ("memory.kmem.limit_in_bytes", "64MB?", errno.EINVAL),
        ("memory.kmem.usage_in_bytes", "0", errno.EINVAL),
        ("no.such.file", "0", errno.ENOENT),
    ]:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno is looked at
            memcg.write(file, value)
        assert caught.value.errno in {number, errno.EACCES}, file
    with pytest.raises(FileNotFoundError):
        memcg.read("no.such.file")
    memcg.remove()


def test_listing_when_asked_for_then_has_files_and_memcgs(harness):
    parent = harness.memcg("/listing")
    parent.child("one")
    entries = harness.controller.ls("/listing")
    assert {"one", "memory.kmem.limit_in_bytes", "cgroup.procs", "tasks"} <= set(entries)
    assert [child.path for child in parent.children()] == ["/listing/one"]
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno is looked at
        parent.remove()
    assert caught.value.errno in (errno.EBUSY, errno.ENOTEMPTY)
    parent.child("one").remove()
    parent.remove()
    with pytest.raises(FileNotFoundError):
        harness.controller.ls("/listing")


def test_command_line_when_a_harness_runs_then_reads_writes_and_lists_its_files(alone):
    with Forker(alone, memcg="/web/box", kmem_limit=3 * TASK) as forker:
        assert forker.fork(2) == (2, None)
        assert (
            kmem_harness("ls").stdout.split()[:1] == ["web"]
            or "web" in kmem_harness("ls").stdout.split()
        )
        assert "memory.kmem.limit_in_bytes" in kmem_harness("ls", "/web/box").stdout.split()
        read = kmem_harness("read", "/web/box", "memory.kmem.usage_in_bytes")
        assert (read.returncode, read.stdout, read.stderr) == (0, f"{2 * TASK}\n", "")
        write = kmem_harness("write", "/web/box", "memory.kmem.limit_in_bytes", "16k")
        assert (write.returncode, write.stdout, write.stderr) == (0, "", "")
        assert forker.fork(1) == (0, "ENOMEM")
        low = kmem_harness("write", "/web/box", "memory.kmem.limit_in_bytes", "4096")
        assert low.returncode == 1
        assert "busy" in low.stderr
        assert "Traceback" not in low.stderr
        missing = kmem_harness("read", "/web/nobody", "memory.kmem.usage_in_bytes")
        assert missing.returncode == 1
        assert "/web/nobody" in missing.stderr
        forker.finish()


def test_command_line_when_used_like_a_shell_in_a_cgroupfs_then_feels_like_one(alone):
    alone.memcg("/g", kmem_limit="8M").child("c")
    limit = "/g/memory.kmem.limit_in_bytes"
    lifted = kmem_harness("write", "/g", "memory.kmem.limit_in_bytes", "-1")
    assert (lifted.returncode, lifted.stdout, lifted.stderr) == (0, "", "")
    assert kmem_harness("read", limit).stdout == "9223372036854775807\n"
    assert kmem_harness("write", limit, "5000").returncode == 0
    assert kmem_harness("read", limit).stdout == "8192\n"
    listing = kmem_harness("ls", "-l", "/g").stdout.splitlines()
    assert "drwxr-xr-x c" in listing
    assert "-rw-r--r-- memory.kmem.limit_in_bytes" in listing
    assert "--w------- memory.force_empty" in listing
    for words, name in (
        (("write", limit, "-2"), "EINVAL"),
        (("write", limit, "8 M"), "EINVAL"),
        (("write", "/memory.kmem.limit_in_bytes", "1M"), "EINVAL"),
        (("read", "/g/memory.force_empty"), "EINVAL"),
        (("read", "/g/nosuch"), "ENOENT"),
        (("read", "/g/c"), "EISDIR"),
        (("ls", "/g/tasks"), "ENOTDIR"),
    ):
        refused = kmem_harness(*words)
        assert refused.returncode == 1, words
        assert f"kmem-harness: {words[-1] if words[0] != 'write' else words[1]}: {name}: " in (
            refused.stderr
        )
    assert kmem_harness("read", "tasks").returncode == 2


def test_command_line_when_no_harness_runs_then_says_how_to_start_one(
    monkeypatch, tmp_path, capsys
):
    # Others of ours may run on this machine.
    left = tmp_path / f"kmem-harness-{os.geteuid()}-1-00" / "control.sock"
    left.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        monkeypatch.chdir(left.parent)  # a socket's address is short
        stale.bind(left.name)
    monkeypatch.setattr(client, "running", lambda: [left.name])
    with pytest.raises(SystemExit) as caught:
        main(["ls"])
    assert caught.value.code == 2
    assert "no harness of yours is running; start one" in capsys.readouterr().err


def test_watch_when_calls_are_refused_then_yields_each(harness):
    with Forker(harness, memcg="/watched/box", kmem_limit=TASK) as forker:
        connection = client.Connection(connect(harness))
        events = connection.watch("/watched")
        assert forker.fork(1) == (1, None)
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(next(events) for _ in range(3)))
        reader.start()
        # The reader asks to watch as its first act: until it is heard, refusals are not sent.
        while reader.is_alive():
            assert forker.fork(1) == (0, "ENOMEM")
            reader.join(0.005)
        assert [event["event"] for event in seen] == ["charge.refused"] * 3
        assert seen[0]["memcg"] == "/watched/box"
        connection.close()
        assert forker.fork(1) == (0, "ENOMEM")
        forker.finish()
    for path in ("/watched/box", "/watched"):
        harness.controller.remove(path)


def test_watcher_when_it_hangs_up_then_refusals_go_on(harness):
    with Forker(harness, memcg="/unwatched", kmem_limit=TASK) as forker:
        for _ in range(50):
            watcher = connect(harness)
            watcher.send(b'{"op": "watch", "path": "/unwatched"}')
            watcher.recv(1000)
            watcher.close()
            assert forker.fork(2)[1] == "ENOMEM"
        forker.finish()
    harness.controller.remove("/unwatched")
