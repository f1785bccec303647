"""A limit admits exactly what it has room for, says so in its report, and gives everything back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine, Outcome
    from tests.support.programs import Programs

STACK = 8192  # bytes a task costs in the profile v4
V4 = ("--kernel", "v4")
#: What a real 5.10 kernel did with the same program under 8M: cliff-fork-pause.json.
CLIFF_AT_8M = 96


def assert_books_balance(outcome: Outcome) -> None:
    kmem = outcome.kmem
    assert kmem["max_usage"] <= kmem["limit"]
    assert kmem["usage"] == 0
    for kind in outcome.report["kinds"].values():
        assert kind["charged"] == kind["uncharged"]
        assert kind["live_peak"] * kind["bytes_each"] <= kmem["limit"]


def test_fork_pause_when_v4_limit_is_1m_then_exactly_128_children_and_enomem(
    command_line: CommandLine, programs: Programs
) -> None:
    outcome = command_line.run([str(programs["fork_pause"]), "1000"], *V4, "--kmem-limit", "1M")
    assert outcome.stdout == "children=128 errno=ENOMEM\n"
    assert outcome.status == 0
    assert outcome.kmem == {"limit": 1 << 20, "usage": 0, "max_usage": 1 << 20, "failcnt": 1}
    assert_books_balance(outcome)
    task = outcome.report["kinds"]["task"]
    assert (task["charged"], task["refused"], task["live_peak"]) == (128, 1, 128)
    assert task["bytes_each"] == STACK


def test_fork_pause_when_5_10_limit_is_8m_then_within_a_tenth_of_the_recorded_cliff(
    command_line: CommandLine, programs: Programs
) -> None:
    command = [str(programs["fork_pause"]), "1000"]
    outcome = command_line.run(command, "--kernel", "5.10", "--kmem-limit", "8M")
    assert outcome.tally()["errno"] == "ENOMEM"
    assert int(outcome.tally()["children"]) == pytest.approx(CLIFF_AT_8M, rel=0.1)
    assert_books_balance(outcome)


def test_fork_pause_when_children_outlive_it_then_box_takes_them_along_and_books_balance(
    command_line: CommandLine, programs: Programs
) -> None:
    command = [str(programs["fork_pause"]), "1000", "0", "leave"]
    outcome = command_line.run(command, *V4, "--kmem-limit", "256k")
    assert outcome.stdout == "children=32 errno=ENOMEM\n"
    assert outcome.status == 0
    assert_books_balance(outcome)


def test_report_when_fork_was_refused_then_card_says_who_what_and_why(
    command_line: CommandLine, programs: Programs
) -> None:
    events = command_line.directory / "events.jsonl"
    command = [str(programs["fork_pause"]), "1000"]
    outcome = command_line.run(command, *V4, "--kmem-limit", "80k", "--events", str(events))
    refusals = outcome.report["refusals"]
    assert refusals["total"] == 1
    assert refusals["cards"] == [refusals["first"]]
    card = refusals["first"]
    assert card["comm"] == "fork_pause"
    assert card["syscall"] in ("fork", "clone", "clone3")
    assert card["kind"] == "task"
    assert card["nbytes"] == STACK
    assert card["errno"] == "ENOMEM"
    assert card["memcg"] == card["refused_by"] == outcome.report["memcg"]["path"]
    assert card["counter"] == "kmem"
    assert card["usage"] == card["limit"] == 10 * STACK
    assert card["live"] == {"task": 10}
    assert card["pid"] == card["tid"]
    assert card["time"] > 0
    (event,) = [json.loads(line) for line in events.read_text().splitlines()]
    assert {name: event[name] for name in card} == card


def test_report_when_run_ends_then_keeps_its_promised_shape(
    command_line: CommandLine, programs: Programs
) -> None:
    command = [str(programs["fork_wait"]), "3"]
    report = command_line.run(command, *V4, "--kmem-limit", "1M").report
    assert report["version"] == 1
    assert report["runtime"] == "local"
    assert report["kernel"] == "v4"
    assert report["command"] == command
    assert report["exit_code"] == 0
    assert report["signal"] is None
    assert report["mode"] == "enforce"
    assert 0 < report["wall_seconds"] < 60
    assert report["memcg"]["kmem"]["limit"] == 1 << 20
    assert report["memcg"]["memory"]["limit"] == -1
    assert report["kinds"]["task"]["charged"] == 3
    assert report["refusals"] == {"total": 0, "first": None, "cards": [], "by": {}}
    assert report["notifications"] >= 3


def test_run_when_no_limit_is_given_then_target_has_no_filter(command_line: CommandLine) -> None:
    filters = "grep Seccomp_filters /proc/self/status"
    ours = Path("/proc/self/status").read_text().split("Seccomp_filters:")[1].split()[0]
    assert command_line.run(["sh", "-c", filters]).stdout.split()[1] == ours
    limited = command_line.run(["sh", "-c", filters], "--kmem-limit", "1M")
    assert int(limited.stdout.split()[1]) == int(ours) + 1


@pytest.mark.parametrize("iterations", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_fork_wait_when_limit_has_room_for_ten_then_frees_are_seen_and_nothing_is_refused(
    iterations: int, command_line: CommandLine, programs: Programs
) -> None:
    command = [str(programs["fork_wait"]), str(iterations)]
    outcome = command_line.run(command, *V4, "--kmem-limit", str(10 * STACK), patience=600)
    assert outcome.stdout == f"done={iterations} failures=0 first_errno=none\n"
    assert outcome.report["refusals"]["total"] == 0
    assert outcome.kmem["failcnt"] == 0
    assert outcome.report["kinds"]["task"]["charged"] == iterations
    assert_books_balance(outcome)
