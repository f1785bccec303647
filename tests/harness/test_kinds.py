"""A limit may be that of some kinds of objects alone; the others are free."""

from __future__ import annotations

import json
from subprocess import PIPE

import pytest

from kmem_harness import ConfigurationError
from tests.harness.forker import TASK, Forker, python

#: Starts threads, then children, until it is refused; says how many there were.
BOTH = python("""
import json, os, signal, threading
def until_refused(make):
    for count in range(5):
        try:
            make()
        except (OSError, RuntimeError):
            return count
    return 5
hold = threading.Event()
def fork():
    if os.fork() == 0:
        signal.pause()
def start():
    threading.Thread(target=hold.wait, daemon=True).start()
threads = until_refused(start)
print(json.dumps([threads, until_refused(fork)]), flush=True)
os.killpg(0, 9)
""")


def test_kinds_when_tasks_alone_are_charged_then_threads_are_free(harness):
    assert _made(harness, ["task"]) == [5, 2]


def test_kinds_when_threads_alone_are_charged_then_children_are_free(harness):
    assert _made(harness, ("thread",)) == [2, 5]


def test_kinds_when_not_said_then_all_are_charged_together(harness):
    assert _made(harness, None) == [2, 0]


def _made(harness, kinds):
    with harness.run(BOTH, kmem_limit=2 * TASK, kinds=kinds, stdout=PIPE) as box:
        made = json.loads(box.running.stdout.readline())
        box.wait(timeout=30)
        assert box.report()["memcg"]["kmem"]["max_usage"] == 2 * TASK
    return made


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        (["task", "inode?"], "kind 'inode\\?' is not known; known are .*'task', .*'thread'"),
        ([], "kinds=\\[\\] is not a list of kinds .*'task'"),
        ("task", "kinds='task' is not a list of kinds"),
    ],
)
def test_kinds_when_unusable_then_error_names_them_and_nothing_starts(kinds, named, harness):
    with pytest.raises(ConfigurationError, match=named):
        Forker(harness, kmem_limit="1M", kinds=kinds)
    assert harness.memcg("/local").children() == []
