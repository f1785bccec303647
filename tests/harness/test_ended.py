"""Why a box ended: one word, and the refusal that proves it."""

from __future__ import annotations

import signal
import sys

import pytest

from kmem_harness import Harness
from kmem_harness.ended import REASONS, how_it_ended
from kmem_harness.run_command import summary

PYTHON = [sys.executable, "-I", "-S", "-c"]


@pytest.fixture(scope="module")
def harness():
    with Harness() as one:
        yield one


def card(counter, errno="ENOMEM"):
    return {"counter": counter, "errno": errno}


@pytest.mark.parametrize(
    ("exit_code", "number", "cards", "reason"),
    [
        (0, None, [card("kmem")], "exit"),
        (3, None, [], "exit"),
        (3, None, [card("injected"), card("kmem")], "kmem-limit"),
        (3, None, [card("kmem"), card("injected")], "injected"),
        (3, None, [card("memory")], "memory-limit"),
        (139, signal.SIGSEGV, [card("kmem")], "kmem-limit"),
        (137, signal.SIGKILL, [card("kmem")], "signal"),
        (137, signal.SIGKILL, [card("memory", "OOM"), card("kmem")], "memory-limit"),
        (143, signal.SIGTERM, [card("kmem")], "signal"),
        (134, signal.SIGABRT, [], "signal"),
        (2, None, [card("pids", "EAGAIN")], "pids-limit"),
        (2, None, [card("kmem"), card("pids", "EAGAIN")], "kmem-limit"),
    ],
)
def test_end_when_a_command_ended_so_then_the_reason_is(exit_code, number, cards, reason):
    ended = how_it_ended(exit_code, number, cards)
    assert ended.reason == reason
    assert (ended.card is not None) == reason.endswith(("limit", "injected"))


def test_end_when_tasks_alone_were_bounded_then_names_that_bound():
    assert how_it_ended(2, None, [], pids_refused=3).reason == "pids-limit"
    assert how_it_ended(0, None, [], pids_refused=3).reason == "exit"


@pytest.mark.parametrize(
    ("command", "options", "reason", "said"),
    [
        (["sh", "-c", "exit 3"], {"kmem_limit": "1M"}, "exit", "exit 3 after"),
        (["sh", "-c", "kill -9 $$"], {}, "signal", "signal 9 after"),
        (
            ["sh", "-c", "for i in $(seq 99); do sleep 9 & done"],
            {"kmem_limit": "1M"},
            "kmem-limit",
            "exit 2 (kmem-limit) after",
        ),
        (
            [*PYTHON, "import socket; socket.socket()"],
            {"faults": ["socket:error=EIO"]},
            "injected",
            "exit 1 (injected) after",
        ),
        (
            [*PYTHON, "x = b'a' * (64 << 20)"],
            {"memory_limit": "16M", "kmem_limit": "8M"},
            "memory-limit",
            "signal 9 (memory-limit) after",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value in REASONS else "",
)
def test_end_when_it_happens_then_box_report_and_summary_say_why(
    harness, command, options, reason, said
):
    import subprocess

    with harness.run(command, stderr=subprocess.DEVNULL, **options) as box:
        box.wait(timeout=30)
        ended, report = box.ended, box.report()
    assert ended.reason == reason
    assert report["ended"] == ended.as_dict()
    assert summary(report).startswith(said)
    if ended.card is not None:
        assert ended.card in report["refusals"]["cards"]


def test_end_when_its_owner_makes_it_then_the_reason_is_the_owner_s(harness):
    with harness.run(["sleep", "1000"]) as box:
        assert box.ended is None
        assert box.report()["ended"] is None
    assert box.ended.reason == "interrupted"
    with harness.run(["sleep", "1000"]) as box:
        box.kill("timeout")
        assert box.ended.reason == "timeout"
    with harness.run(["true"]) as box:
        box.running.wait(timeout=30)
        box.kill("timeout")  # too late: it had ended by itself
        assert box.ended.reason == "exit"
    with harness.run(["sleep", "1000"]) as box:
        box.stop(grace=5)
        assert box.ended.reason == "interrupted"


def test_end_when_the_controller_dies_then_the_harness_is_the_reason():
    import os

    from kmem_harness.controller.owner.client import ControllerDiedError

    with Harness() as own:
        box = own.run(["sleep", "1000"], kmem_limit="1M")
        os.kill(own.controller.pid, signal.SIGKILL)
        with pytest.raises(ControllerDiedError):
            box.wait(timeout=30)
        assert box.ended.reason == "harness"
