"""A process forked off the one with the harness leaves it alone, however it leaves."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = """
import os, sys, multiprocessing
from kmem_harness import Harness

def child_leaves(how):
    pid = os.fork()
    if pid == 0:
        how()
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"
"""

WAYS = {
    "the body": """
pid = None
with Harness("v4") as harness:
    box = harness.run(["sleep", "1000"], kmem_limit="1M")
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        check()
if pid == 0:
    os._exit(0)
""",
    "the body of a box": """
with Harness("v4") as harness:
    with harness.run(["sleep", "1000"], kmem_limit="1M") as box:
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            check()
    if pid == 0:
        os._exit(0)
""",
    "by an exception": """
try:
    with Harness("v4") as harness:
        box = harness.run(["sleep", "1000"], kmem_limit="1M")
        pid = os.fork()
        if pid == 0:
            raise RuntimeError
        assert os.waitpid(pid, 0)[1] == 0
        check()
except RuntimeError:
    os._exit(0)
""",
    "sys.exit": """
with Harness("v4") as harness:
    box = harness.run(["sleep", "1000"], kmem_limit="1M")
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    check()
""",
    "multiprocessing": """
with Harness("v4") as harness:
    box = harness.run(["sleep", "1000"], kmem_limit="1M")
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=harness.close)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    with context.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
    check()
""",
    "while the parent ends first": """
reading, writing = os.pipe()
with Harness("v4") as harness:
    box = harness.run(["sleep", "1000"], kmem_limit="1M")
    directory = harness.controller.directory
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)  # lives longer than the harness, with copies of all it holds
        os._exit(0)
    check()
    import time
    began = time.monotonic()
assert time.monotonic() - began < 2, "it waited for a controller that did not hear of the end"
assert not os.path.exists(directory)
os.close(writing)
os.waitpid(pid, 0)
""",
    "asking": """
with Harness("v4") as harness:
    box = harness.run(["sleep", "1000"], kmem_limit="1M")
    pid = os.fork()
    if pid == 0:
        try:
            box.memcg.kmem.usage
        except ValueError as error:
            os._exit(0 if "was forked off it" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    check()
""",
}

CHECK = """
def check():
    assert harness.controller.alive
    assert box.status is None
    assert harness.run(["true"], kmem_limit="1M").wait(timeout=20) == 0
    box.signal(15)
    assert box.wait(timeout=20) == 143
"""


@pytest.mark.parametrize("way", WAYS)
def test_harness_when_a_forked_child_leaves_it_then_goes_on_for_its_parent(way):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + CHECK + WAYS[way]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
