"""Traces written here: what is accepted, what is refused, and how it is said."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from kmem_harness.replay.command import replay
from kmem_harness.replay.engine import Outcome, replay_file
from kmem_harness.replay.verdict import count_matches, figure_matches, step_differences

LIMIT = "g/memory.kmem.limit_in_bytes"


def scenario(*steps, kernel="5.10"):
    numbered = [{"step": n, "result": "ok", **step} for n, step in enumerate(steps, 1)]
    return {"scenario": "s", "kernel": kernel, "steps": numbered}


@pytest.fixture
def trace(tmp_path):
    def write(data, name="t.json"):
        file = tmp_path / name
        file.write_text(data if isinstance(data, str) else json.dumps(data))
        return str(file)

    return write


_OOM_OFF = "oom_kill_disable 1\nunder_oom 1\noom_kill 0"
MKDIR = {"op": "mkdir", "file": "g"}
SPAWN = {"op": "spawn", "worker": "w", "group": "g"}


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("{", "not JSON"),
        ("[]", "object"),
        ({"scenario": "s", "steps": []}, "field 'kernel': missing"),
        (scenario(kernel="2.6.32"), "field 'kernel': unknown kernel profile '2.6.32'"),
        (scenario(kernel="5.100"), "field 'kernel': unknown kernel profile"),
        (scenario({"op": "mkdir"}), "step 1, field 'file': missing"),
        (scenario(MKDIR, {"op": "chmod"}), "step 2, field 'op': unknown op 'chmod'"),
        (scenario(MKDIR, {"op": "write", "file": LIMIT}), "step 2, field 'value': missing"),
        (scenario(MKDIR, {**MKDIR, "result": None}), "step 2, field 'result': str wanted"),
        (scenario({"op": "free", "worker": "w"}), "step 1, field 'worker': 'w' was never spawned"),
        (
            scenario(
                MKDIR,
                SPAWN,
                {"op": "do", "worker": "w", "workload": "juggle", "count": 1, "made": 1},
            ),
            "step 3, field 'workload': unknown workload 'juggle'",
        ),
        (
            scenario({"op": "sleep", "milliseconds": 10**30}),
            "step 1, field 'milliseconds': 0 to 10,000,000, not 1000",
        ),
        ({"workload": "juggle", "kernel": "5.10", "cost": {}}, "field 'workload': unknown"),
        ({"workload": "pipe", "kernel": "5.10", "cost": [{}]}, "cost 1, field 'n1': missing"),
        ({"workload": "pipe", "kernel": "5.10"}, "field 'runs': missing"),
        ({"workload": "pipe", "kernel": "5.10", "runs": [{}]}, "runs 1, field 'limit_file'"),
    ],
)
def test_trace_when_bad_then_error_names_file_step_and_field(trace, data, wanted):
    file = trace(data)
    result = replay_file(file)
    assert result.outcome is Outcome.BAD_TRACE
    assert result.differences[0].startswith(f"{file}: ")
    assert wanted in result.differences[0]


def test_command_when_one_trace_is_bad_then_the_others_still_run(trace):
    good = trace(scenario(MKDIR), "good.json")
    wrong = trace(scenario(MKDIR, MKDIR), "wrong.json")
    bad = trace("{", "bad.json")
    run = CliRunner().invoke(replay, [bad, good, wrong, "/nowhere.json"])
    assert run.exit_code == 1
    assert run.output.splitlines()[-1] == "1 passed, 3 failed"
    assert "No such file" in run.output
    assert 'recorded "ok"' in run.output
    assert 'emulated "EEXIST"' in run.output
    assert CliRunner().invoke(replay, [good]).exit_code == 0


def test_command_when_asked_for_ktap_then_prints_nothing_else(trace):
    good = trace(scenario(MKDIR), "good.json")
    wrong = trace(scenario(MKDIR, MKDIR), "wrong.json")
    run = CliRunner().invoke(replay, ["--ktap", good, wrong])
    lines = run.output.splitlines()
    assert lines[:3] == ["KTAP version 1", "1..2", "ok 1 good"]
    assert "not ok 2 wrong" in lines
    assert all(line.startswith(("KTAP", "1..", "ok ", "not ok ", "#")) for line in lines)


def test_command_when_recording_several_then_fills_a_directory(trace, tmp_path):
    files = [trace(scenario(MKDIR), name) for name in ("a.json", "b.json")]
    out = tmp_path / "out"
    run = CliRunner().invoke(replay, [*files, "--record", str(out)])
    assert run.exit_code == 0
    assert sorted(file.name for file in out.iterdir()) == ["a.json", "b.json"]
    assert json.loads((out / "a.json").read_text())["steps"][0]["op"] == "mkdir"


def test_trace_when_of_an_older_profile_then_plays_by_its_rules(trace):
    """K65, K86, K91: activation with a task is EBUSY, and only stacks are charged."""
    steps = (
        MKDIR,
        {"op": "write", "file": LIMIT, "value": "64K"},
        SPAWN,
        {"op": "write", "file": LIMIT, "value": "32K"},
        {"op": "do", "worker": "w", "workload": "pipe", "count": 50, "made": 50},
        {
            "op": "do",
            "worker": "w",
            "workload": "fork-pause",
            "count": 9,
            "made": 4,
            "result": "ENOMEM",
        },
        {"op": "read", "file": "g/memory.kmem.usage_in_bytes", "value": "32768"},
        {"op": "mkdir", "file": "h"},
        {"op": "move", "worker": "w", "group": "h"},
        {
            "op": "write",
            "file": "h/memory.kmem.limit_in_bytes",
            "value": "1M",
            "result": "EBUSY",
            "failed_call": "write",
        },
        {"op": "kill", "worker": "w"},
        {"op": "read", "file": "g/memory.kmem.usage_in_bytes", "value": "0"},
    )
    for kernel in ("v4", "3.8", "3.12"):
        result = replay_file(trace(scenario(*steps, kernel=kernel)))
        assert result.passed, result.differences


@pytest.mark.parametrize(("length", "result"), [(63, "ok"), (4096, "ok"), (4097, "E2BIG")])
def test_write_when_padded_then_is_as_long_as_the_trace_says(trace, length, result):
    step = {"op": "write", "file": LIMIT, "value": "8M", "padded_with_spaces_to": length}
    if result != "ok":
        step |= {"result": result, "failed_call": "write"}
    assert replay_file(trace(scenario(MKDIR, step))).passed


def test_worker_when_killed_by_the_oom_killer_then_is_dead_afterwards(trace):
    steps = (
        MKDIR,
        {"op": "write", "file": "g/memory.limit_in_bytes", "value": "1M"},
        SPAWN,
        {
            "op": "do",
            "worker": "w",
            "workload": "pipe",
            "count": 9000,
            "made": 400,
            "result": "WORKER_KILLED",
            "signal": 9,
        },
        {"op": "do", "worker": "w", "workload": "pipe", "count": 1, "made": 0, "result": "DEAD"},
        {"op": "read", "file": "g/cgroup.procs", "value": ""},
        {"op": "kill", "worker": "w"},
        {"op": "rmdir", "file": "g"},
    )
    result = replay_file(trace(scenario(*steps)))
    assert result.passed, result.differences


def test_verdict_when_figures_are_approximate_then_a_tenth_or_eight_pages_will_do():
    assert figure_matches(0, 32768)
    assert not figure_matches(0, 36864)
    assert figure_matches(10_000_000, 10_900_000)
    assert not figure_matches(10_000_000, 11_100_000)
    assert count_matches(100, 110)
    assert not count_matches(100, 112)
    assert count_matches(2, 1)
    assert not count_matches(0, 1)
    assert not count_matches(1, 0)


def test_verdict_when_recordings_differ_then_either_will_do():
    step = {"op": "do", "result": "ENOMEM", "made": 0, "second_recording": {"result": "ENFILE"}}
    for ours, fields in (("ENOMEM", []), ("ENFILE", []), ("EMFILE", ["result"])):
        assert step_differences(step, {"result": ours, "made": 0}) == fields


def test_children_when_their_worker_is_oom_killed_then_live_on_until_the_kill(trace):
    steps = (
        MKDIR,
        {"op": "write", "file": "g/memory.limit_in_bytes", "value": "8M"},
        SPAWN,
        {
            "op": "do",
            "worker": "w",
            "workload": "fork-pause",
            "count": 900,
            "made": 73,
            "result": "WORKER_KILLED",
            "signal": 9,
        },
        {
            "op": "read",
            "file": "g/memory.kmem.usage_in_bytes",
            "value": str(73 * 87233),
            "approximate": True,
        },
        {"op": "free", "worker": "w", "result": "DEAD"},
        {"op": "move", "worker": "w", "group": ".", "result": "ESRCH"},
        {"op": "rmdir", "file": "g", "result": "EBUSY"},
        {"op": "kill", "worker": "w"},
        {"op": "rmdir", "file": "g"},
    )
    result = replay_file(trace(scenario(*steps)))
    assert result.passed, result.differences


def test_memory_limit_when_the_oom_killer_is_off_then_calls_fail_instead(trace):
    steps = (
        MKDIR,
        {"op": "write", "file": "g/memory.limit_in_bytes", "value": "1M"},
        {"op": "write", "file": "g/memory.oom_control", "value": "1"},
        SPAWN,
        {
            "op": "do",
            "worker": "w",
            "workload": "eventfd",
            "count": 9000,
            "made": 2100,
            "result": "ENOMEM",
        },
        {"op": "free", "worker": "w"},
        {
            "op": "do",
            "worker": "w",
            "workload": "anon-64k",
            "count": 100,
            "made": 15,
            "result": "STUCK",
        },
        {"op": "read", "file": "g/memory.oom_control", "value": _OOM_OFF},
        {"op": "kill", "worker": "w"},
        {"op": "rmdir", "file": "g"},
    )
    result = replay_file(trace(scenario(*steps)))
    assert result.passed, result.differences


def test_stuck_fault_when_room_appears_then_goes_on(trace):
    do = {"op": "do", "worker": "w", "workload": "page-tables"}
    steps = (
        MKDIR,
        {"op": "write", "file": LIMIT, "value": "1M"},
        SPAWN,
        {**do, "count": 400, "made": 255, "result": "STUCK"},
        {"op": "read", "file": "g/memory.kmem.failcnt", "value": "600000", "approximate": True},
        {"op": "write", "file": LIMIT, "value": "-1"},
        {**do, "count": 10, "made": 10},
        {"op": "kill", "worker": "w"},
        {"op": "read", "file": "g/memory.kmem.usage_in_bytes", "value": "0", "approximate": True},
    )
    result = replay_file(trace(scenario(*steps)))
    assert result.passed, result.differences


def test_descriptor_when_beyond_the_largest_table_then_is_bad(trace):
    do = {"op": "do", "worker": "w", "workload": "fdtable-dup2", "count": 300}
    steps = (MKDIR, SPAWN, {**do, "made": 13, "result": "EBADF"}, {"op": "kill", "worker": "w"})
    result = replay_file(trace(scenario(*steps)))
    assert result.passed, result.differences


def test_writer_when_it_writes_zero_then_moves_itself(trace):
    steps = (
        MKDIR,
        {"op": "write", "file": "g/cgroup.procs", "value": "0"},
        {"op": "rmdir", "file": "g", "result": "EBUSY"},
        {"op": "write", "file": "cgroup.procs", "value": "0\n"},
        {"op": "rmdir", "file": "g"},
    )
    result = replay_file(trace(scenario(*steps)))
    assert result.passed, result.differences


def test_errno_when_another_part_may_have_been_refused_then_either_will_do(trace):
    """ENFILE or ENOMEM follows from the change in hand; with nothing charged, from nothing."""
    do = {"op": "do", "worker": "w", "workload": "pipe", "count": 900}
    limit = {"op": "write", "file": LIMIT}
    for text, made, number, agrees in (
        ("1M", 400, "ENFILE", True),
        ("1M", 400, "ENOMEM", True),
        ("1M", 400, "EMFILE", False),
        ("0", 0, "ENFILE", True),
        ("0", 0, "ENOMEM", False),
    ):
        steps = (MKDIR, {**limit, "value": text}, SPAWN, {**do, "made": made, "result": number})
        assert replay_file(trace(scenario(*steps))).passed is agrees, (text, number)


def test_churn_when_recorded_either_way_then_both_agree(trace):
    """Whether a backlog outruns the grace periods is the machine's doing, not the kernel's."""
    do = {"op": "do", "worker": "w", "workload": "churn-pipe-close", "count": 6000}
    limit = {"op": "write", "file": LIMIT, "value": "1M"}
    for made, result, agrees in (
        (6000, "ok", True),
        (4000, "ENOMEM", True),
        (1982, "ENFILE", True),
        (300, "ENOMEM", False),
        (5999, "ok", False),
    ):
        steps = (MKDIR, limit, SPAWN, {**do, "made": made, "result": result})
        assert replay_file(trace(scenario(*steps))).passed is agrees, (made, result)
