"""Fault rules at work, on real processes: counted over the whole box, with a card for each."""

from __future__ import annotations

import json
import sys
import time

import pytest

from kmem_harness import Harness
from kmem_harness.core.errors import ConfigurationError
from tests.support.command_line import CommandLine

PYTHON = [sys.executable, "-I", "-S", "-c"]
SOCKETS = """
import errno, socket
def attempt():
    try:
        socket.socket().close()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
print(" ".join(attempt() for _ in range(4)), flush=True)
"""


@pytest.fixture(scope="module")
def harness():
    with Harness() as one:
        yield one


def output(harness, code, faults, **options):
    import subprocess

    box = harness.run([*PYTHON, code], faults=faults, stdout=subprocess.PIPE, **options)
    with box:
        out, _ = box.communicate(timeout=30)
        assert box.wait(30) == 0
        return out.decode().split(), box.report()


@pytest.mark.parametrize("limit", [None, "64M"])
def test_rule_when_a_call_is_named_then_fails_it_with_a_limit_or_without(harness, limit):
    said, report = output(harness, SOCKETS, ["socket:error=ENOBUFS:when=2+2"], kmem_limit=limit)
    assert said == ["ok", "ENOBUFS", "ok", "ENOBUFS"]
    assert report["refusals"]["total"] == 2
    card = report["refusals"]["first"]
    assert (card["counter"], card["syscall"], card["errno"]) == ("injected", "socket", "ENOBUFS")
    assert (card["number"], card["nth_of_call"]) == (2, 2)
    assert card["rule"] == "socket:error=ENOBUFS:when=2+2"
    assert report["faults"]["rules"] == [
        {"rule": "socket:error=ENOBUFS:when=2+2", "matched": 4, "failed": 2, "delayed": 0}
    ]
    assert report["mode"] == ("inject" if limit is None else "enforce")


def test_count_when_processes_share_a_box_then_their_calls_count_together(harness):
    code = """
import errno, os, socket
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            socket.socket()
        except OSError:
            os._exit(7)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
    said, _ = output(harness, code, ["socket:error=ENOMEM:when=2"])
    assert said == ["0", "7", "0"]


def test_threads_when_asked_for_alone_then_processes_are_let_be(harness):
    code = """
import os, threading
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
try:
    threading.Thread(target=int).start()
except RuntimeError:
    print("refused")
"""
    said, report = output(harness, code, ["kind=thread:error=EAGAIN"])
    assert said == ["refused"]
    assert report["refusals"]["first"]["kind"] == "thread"


def test_delay_when_one_box_is_held_then_another_goes_on(harness):
    held = harness.run([*PYTHON, SOCKETS], faults=["socket:delay_enter=3s:when=1"])
    with held:
        began = time.monotonic()
        said, _ = output(harness, SOCKETS, ["socket:error=EIO:when=1"])
        assert said == ["EIO", "ok", "ok", "ok"]
        assert time.monotonic() - began < 2
        assert held.status is None


def test_delay_when_over_then_the_call_runs_or_fails(harness):
    began = time.monotonic()
    said, report = output(
        harness, SOCKETS, ["socket:delay_enter=50ms:when=1..2", "socket:error=EIO:when=2"]
    )
    assert said == ["ok", "EIO", "ok", "ok"]
    assert time.monotonic() - began >= 0.1
    assert report["notifications"] == 4


def test_delay_when_the_limit_holds_then_the_held_call_is_charged_all_the_same(harness):
    code = """
import os
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
"""
    _, report = output(
        harness, code, ["%process:delay_enter=20ms"], kmem_limit="64M", kinds=["task", "thread"]
    )
    assert report["kinds"]["task"]["charged"] == 1
    assert report["notifications"] == 1


def test_box_when_it_ends_while_a_call_is_held_then_nothing_is_left(harness):
    box = harness.run([*PYTHON, SOCKETS], faults=["socket:delay_enter=30s"])
    box.kill()
    box.close()
    said, _ = output(harness, SOCKETS, ["socket:count"])
    assert said == ["ok"] * 4


def test_end_when_looked_at_then_tells_what_was_held_and_who_was_left(harness):
    code = """
import os, socket, time
kept = socket.socket().detach()
if os.fork() == 0:
    time.sleep(60)
"""
    _, report = output(harness, code, ["charge:count"], look_at_end=True)
    at_end = report["faults"]["at_end"]
    assert at_end["holds"]["socket"] == 1
    assert len(at_end["others"]) == 1


def test_rule_when_it_cannot_be_read_then_no_box_is_made(harness):
    with pytest.raises(ConfigurationError, match="did you mean socket"):
        harness.run(["true"], faults=["sockt:error=ENOMEM"])
    assert harness.controller.request("boxes")["boxes"] == []


def test_inject_when_on_the_command_line_then_events_have_the_cards(tmp_path):
    command_line = CommandLine(tmp_path)
    events = tmp_path / "events.jsonl"
    outcome = command_line.run(
        [*PYTHON, SOCKETS],
        *("--inject", "socket:error=ENOMEM:when=2", "--events", str(events)),
    )
    assert outcome.stdout.split() == ["ok", "ENOMEM", "ok", "ok"]
    assert "rule socket:error=ENOMEM:when=2: 4 matched, 1 failed" in outcome.stderr
    (card,) = [json.loads(line) for line in events.read_text().splitlines()]
    assert card["counter"] == "injected"


def test_inject_when_the_rule_is_wrong_then_nothing_starts_and_the_status_is_125(tmp_path):
    outcome = CommandLine(tmp_path).run(["true"], "--inject", "socket:error=ENOMEN")
    assert outcome.status == 125
    assert "did you mean ENOMEM" in outcome.stderr


def test_rule_when_the_limit_prices_only_some_calls_of_a_name_then_the_others_stay_free(harness):
    code = """
import select
poll = select.epoll()
import os
end, _ = os.pipe()
poll.register(end)
for _ in range(5):
    poll.modify(end, select.EPOLLIN)
print("done")
"""
    said, report = output(harness, code, ["epoll_ctl:count"], kmem_limit="64M")
    assert said == ["done"]
    assert report["faults"]["tried"] == {"epoll_ctl": 6}
    assert report["kinds"]["epoll-watch"]["charged"] == 1
