"""A file server that does not answer keeps whoever asks it; the controller asks none of a box's."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from kmem_harness import Harness
from tests.support.silent_fuse import silent_file_system, why_no_fuse

pytestmark = pytest.mark.skipif(bool(why_no_fuse()), reason=why_no_fuse() or "there is one")

#: The box's: says when it is about to be kept, and makes calls of names that lead to such a server.
PROGRAM = """
import ctypes, os, sys
what, where = sys.argv[1:]
libc = ctypes.CDLL(None)
def one():
    if what == "path":
        libc.mkdir(f"{where}/a/b".encode(), 0o755)
    elif what == "link":
        os.symlink(where, "link")
        libc.unlink(b"link/x")
    elif what == "directory":
        libc.chdir(where.encode())
        libc.mkdir(b"x", 0o755)
print("now", flush=True)
if not os.fork():
    one()
    os._exit(0)
sys.stdin.read()
"""
#: Its neighbour: how long did the slowest of its calls take?
NEIGHBOUR = """
import os, time
slowest, end = 0, time.monotonic() + 1.5
while time.monotonic() < end:
    began = time.monotonic()
    os.close(os.eventfd(0))
    os.mkdir("mine")
    os.rmdir("mine")
    slowest = max(slowest, time.monotonic() - began)
    time.sleep(0.002)
print(slowest)
"""


@contextmanager
def busy_neighbour(harness, directory):
    directory.mkdir()
    command = [sys.executable, "-I", "-S", "-c", NEIGHBOUR]
    with harness.run(
        command, kmem_limit="4M", cwd=str(directory), stdout=subprocess.PIPE
    ) as neighbour:
        yield neighbour
        said, _ = neighbour.communicate(timeout=30)
        # Half a second is promised; a busy machine may take its own time on top.
        assert float(said) < 1.0


@pytest.mark.parametrize("what", ["path", "link", "directory"])
def test_box_when_its_names_lead_to_a_silent_file_server_then_nobody_else_waits(what, tmp_path):
    where, here = tmp_path / "silent", tmp_path / "here"
    where.mkdir()
    here.mkdir()
    with silent_file_system(where), Harness("5.10", isolation="none") as harness:
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, what, str(where)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            busy_neighbour(harness, tmp_path / "neighbour"),
            harness.run(command, kmem_limit="4M", cwd=str(here), **pipes) as box,
        ):
            assert box.running.stdout.readline() == b"now\n"
            time.sleep(0.7)
            began = time.monotonic()
            assert not box.report()["controller_died"]
            assert time.monotonic() - began < 1.0
            # What it keeps is let go of first: to end a box is another matter.
            ctypes.CDLL(None).umount2(os.fsencode(where), 1)
            box.kill()
