"""What the fast path answers, and what Python alone answers: real boxes, the same account."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine, Outcome
    from tests.support.programs import Programs

SETTING = "KMEM_HARNESS_FAST_PATH"
MODES = ("at once", "off")
#: Kinds that nothing makes but the calls below.
COUNTED = ("unix-socket", "pipe", "anon-file")
#: Makes objects and keeps them, frees as many again, forks, and makes threads.
MAKES = """
import os, socket, threading
kept = [socket.socket(socket.AF_UNIX) for _ in range(300)]
kept += [os.pipe() for _ in range(200)]
for _ in range(300):
    socket.socket(socket.AF_UNIX).close()
for _ in range(40):
    os.eventfd(0)
children = []
for _ in range(30):
    child = os.fork()
    if not child:
        os.read(kept[300][0], 1)
        os._exit(0)
    children.append(child)
os.write(kept[300][1], b"x" * 30)
for child in children:
    os.waitpid(child, 0)
for _ in range(20):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
print("made")
"""
#: Children that make sockets as fast as they can are killed in the middle of it, again and again.
KILLED = """
import os, signal, socket, time
for _ in range(60):
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            while True:
                socket.socket(socket.AF_UNIX).close()
        children.append(child)
    time.sleep(0.01)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
kept = [socket.socket(socket.AF_UNIX) for _ in range(50)]
print("kept")
"""


def run(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, mode: str, *rest: str
) -> Outcome:
    monkeypatch.setenv(SETTING, mode)
    *options, program = rest
    return command_line.run([sys.executable, "-I", "-S", "-c", program], *options)


def test_account_when_the_fast_path_is_off_then_is_the_same(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for mode in MODES:
        outcome = run(command_line, monkeypatch, mode, "--kmem-limit", "64M", MAKES)
        assert (outcome.status, outcome.stdout) == (0, "made\n")
        kinds = outcome.report["kinds"]
        assert outcome.kmem["usage"] == 0
        assert all(kind["charged"] == kind["uncharged"] for kind in kinds.values())
        counts[mode] = {name: kinds[name]["charged"] for name in COUNTED}
        # Which of them are threads, and which only were executed, a census tells when it comes.
        counts[mode]["tasks"] = sum(
            kinds[name]["charged"] for name in ("task", "thread", "exec") if name in kinds
        )
        assert kinds["unix-socket"]["live_peak"] >= 300
    assert counts["at once"] == counts["off"]
    assert counts["off"]["unix-socket"] == 600
    assert counts["off"]["tasks"] == 50


@pytest.mark.parametrize("mode", MODES)
def test_bomb_when_v4_limit_is_1m_then_exactly_128_children_with_it_and_without(
    command_line: CommandLine, programs: Programs, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv(SETTING, mode)
    command = [str(programs["fork_pause"]), "1000"]
    outcome = command_line.run(command, "--kernel", "v4", "--kmem-limit", "1M")
    assert outcome.stdout == "children=128 errno=ENOMEM\n"
    assert outcome.kmem == {"limit": 1 << 20, "usage": 0, "max_usage": 1 << 20, "failcnt": 1}


@pytest.mark.parametrize("mode", MODES)
def test_callers_when_killed_in_the_middle_of_calls_then_leave_nothing_charged(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    outcome = run(command_line, monkeypatch, mode, "--kmem-limit", "8M", KILLED)
    assert (outcome.status, outcome.stdout) == (0, "kept\n")
    kinds = outcome.report["kinds"]
    assert outcome.report["refusals"]["total"] == 0
    assert outcome.kmem["usage"] == 0
    assert kinds["unix-socket"]["charged"] == kinds["unix-socket"]["uncharged"]
    assert kinds["task"]["charged"] == 240
