"""Every recording of the real kernel that lies beside the repository, replayed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from kmem_harness.replay.engine import Outcome, record, replay_file

ORACLE = Path(__file__).parents[2].parent / "shared" / "oracle" / "linux-5.10"
KINDS = ("semantics", "hierarchy", "cliff", "churn", "cost")
FILES = sorted(file for kind in KINDS for file in ORACLE.glob(f"{kind}-*.json"))
OTHERS = sorted(
    file for kind in ("shell", "slab", "timing") for file in ORACLE.glob(f"{kind}*.json")
)
needs_oracle = pytest.mark.skipif(not FILES, reason=f"no recordings in {ORACLE.name}")
#: What a run of the quick form makes at most; the recorder's largest make ten times as many.
QUICK_OBJECTS = 12_000


def without_long_runs(file):
    """Give the recording without its largest runs, and whether that is all of it.

    A repeat plays as the run that it repeats, and recorded the same.
    """
    data = json.loads(file.read_text())
    short = dict(data)
    for key, runs in data.items():
        if key.startswith(("runs", "repeats")):
            few = [run for run in runs if run["objects"] <= QUICK_OBJECTS]
            short[key] = few if key != "repeats" else []
    return short, short == data


@needs_oracle
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recording_when_replayed_then_agrees(file, tmp_path):
    data, _ = without_long_runs(file)
    shorter = tmp_path / file.name
    shorter.write_text(json.dumps(data))
    shown = io.StringIO()
    assert replay_file(shorter, stream=shown).passed, shown.getvalue()


@pytest.mark.slow
@needs_oracle
@pytest.mark.parametrize(
    "file",
    [file for file in FILES if not without_long_runs(file)[1]],
    ids=lambda file: file.stem,
)
def test_recording_when_replayed_whole_then_agrees(file):
    shown = io.StringIO()
    assert replay_file(file, stream=shown).passed, shown.getvalue()


@needs_oracle
@pytest.mark.parametrize("file", OTHERS, ids=lambda file: file.stem)
def test_recording_when_it_holds_no_steps_then_is_skipped(file):
    assert replay_file(file).outcome is Outcome.NOT_A_TRACE


@needs_oracle
@pytest.mark.parametrize(
    "name",
    ["semantics-failcnt-and-max-usage-reset", "hierarchy-slice-three-services", "cliff-pipe"],
)
def test_record_when_replayed_again_then_agrees(name, tmp_path):
    out = tmp_path / "played.json"
    record(replay_file(ORACLE / f"{name}.json"), out)
    again = replay_file(out)
    assert again.passed, again.differences


def _mutations(step):
    if step["op"] == "read" and step["result"] == "ok":
        value = step["value"]
        yield "value", str(int(value) * 2 + 10**6) if value.isdigit() else f"{value}x"
    if step["op"] in {"write", "mkdir", "rmdir", "rename", "unlink", "read"}:
        yield "result", "EXDEV"
    if step["op"] == "do":
        yield "made", step["made"] * 2 + 7
        yield "result", "EXDEV"


@needs_oracle
@pytest.mark.parametrize(
    "name",
    ["semantics-limit-zero", "semantics-rmdir-busy", "hierarchy-child-limit-lower"],
)
def test_recording_when_one_figure_is_changed_then_that_step_differs(name, tmp_path):
    data = json.loads((ORACLE / f"{name}.json").read_text())
    changed = tmp_path / "changed.json"
    for step in data["steps"]:
        for field, wrong in _mutations(step):
            if field == "value" and "cgroup.procs" in step["file"]:
                continue
            right, again = step[field], step.pop("second_recording", None)
            step[field] = wrong
            changed.write_text(json.dumps(data))
            result = replay_file(changed)
            assert result.outcome is Outcome.FAILED, (step, field)
            assert any(f"step {step['step']} " in line for line in result.differences)
            step[field] = right
            if again is not None:
                step["second_recording"] = again


@needs_oracle
@pytest.mark.parametrize(
    ("name", "field", "wrong"),
    [
        ("cliff-pipe", "objects", 7),
        ("cliff-mkdir-chain-tmpfs", "errno", "EMFILE"),
        ("cliff-eventfd", "failcnt", 0),
        ("cliff-unix-socket", "limit_write", "EBUSY"),
    ],
)
def test_cliff_when_one_figure_is_changed_then_that_run_differs(name, field, wrong, tmp_path):
    data = json.loads((ORACLE / f"{name}.json").read_text())
    data["runs"] = data["runs"][:1]
    data["runs"][0][field] = wrong
    data.pop("repeats")
    data["cost"] = None
    data["runs"][0]["next_100"] = {"EMFILE": 0} if field != "errno" else {}
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(data))
    result = replay_file(changed)
    assert result.outcome is Outcome.FAILED
    assert field in result.differences[0]
