"""Rules that never fired, and what a rule means by the name of a call."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kmem_harness.faults.fired import never_fired
from kmem_harness.faults.rule import FaultRuleError, parse_rules
from kmem_harness.faults.schedule import Schedule
from kmem_harness.interposer.syscalls import CLONE_THREAD, native_architecture

NUMBERS = native_architecture().numbers
RUN = [sys.executable, "-m", "kmem_harness", "run"]
SOCKET = [sys.executable, "-I", "-S", "-c", "import socket; socket.socket()"]


def judged(rule, *calls):
    schedule = Schedule(parse_rules([rule]), NUMBERS)
    for name, *arguments in calls:
        if NUMBERS[name] in schedule.calls:
            words = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
            schedule.judge(NUMBERS[name], words, lambda: "x", lambda: None)
    return schedule.report()


@pytest.mark.parametrize(
    ("rule", "idle"),
    [
        ("socket:error=EIO", False),
        ("socket:error=EIO:when=2", True),
        ("socket:delay_enter=1ms:when=2", True),
        ("socket:error=EIO:when=2:optional=1", False),
        ("pipe2:error=EIO", True),
        ("pipe2:error=EIO:optional=0", True),
        ("pipe2:count", False),
        ("socket:error=EIO:prob=0.0001:seed=1", False),
        ("pipe2:error=EIO:prob=0.5:seed=1", True),
    ],
)
def test_rule_when_it_has_done_nothing_then_that_is_a_finding(rule, idle):
    report = {"faults": judged(rule, ("socket",))}
    assert bool(never_fired(report)) == idle


def test_finding_when_a_rule_never_fired_then_says_what_there_was():
    faults = judged("socket:error=EIO:when=3", ("socket",), ("socket",))
    kinds = {"task": {"charged": 2}}
    assert never_fired({"faults": faults, "kinds": kinds}) == [
        (
            "KH-F001: rule 'socket:error=EIO:when=3' never fired: only 2 calls matched; "
            "there were 2 socket, 2 task charged; with optional=1 it need not"
        )
    ]


@pytest.mark.parametrize(
    ("rule", "calls", "matched"),
    [
        ("open", [("openat",), ("openat2",)], 2),
        ("openat", [("openat",), ("openat2",)], 1),
        ("fork", [("clone", 17), ("clone", CLONE_THREAD), ("clone", 0x4111)], 2),
        ("fork,socket", [("clone", CLONE_THREAD), ("socket",)], 1),
        ("clone", [("clone", 17), ("clone", CLONE_THREAD)], 2),
        ("pipe,accept", [("pipe2",), ("accept4",)], 2),
        ("unlink,rename", [("unlinkat",), ("renameat2",)], 2),
    ],
)
def test_rule_when_it_names_a_call_then_means_what_libc_makes_of_it(rule, calls, matched):
    (row,) = judged(f"{rule}:count", *calls)["rules"]
    assert row["matched"] == matched


def test_rule_when_optional_is_no_number_then_says_what_to_write():
    with pytest.raises(FaultRuleError, match="write optional=1"):
        parse_rules(["socket:error=EIO:optional=yes"])


@pytest.mark.parametrize(
    ("rule", "command", "status", "warned"),
    [
        ("socket:error=EIO:when=7", SOCKET, 123, True),
        ("socket:error=EIO:when=7:optional=1", SOCKET, 0, False),
        ("socket:count", SOCKET, 0, False),
        ("mkdir:error=EIO", ["sh", "-c", "exit 4"], 4, True),
    ],
)
def test_run_when_a_rule_never_fired_then_warns_and_does_not_exit_with_success(
    rule, command, status, warned
):
    done = subprocess.run(
        [*RUN, "--quiet", "--inject", rule, "--", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert ("warning: KH-F001: rule" in done.stderr) == warned


def test_run_when_a_rule_names_fork_then_a_shell_s_child_is_meant():
    script = "/bin/true; echo came"
    done = subprocess.run(
        [*RUN, "--inject", "fork:error=ENOMEM", "--", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 matched, 1 failed" in done.stderr
    assert "came" not in done.stdout
