"""The doctor's word against what a box does: verdict, exit status, and what is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kmem_harness import Harness
from kmem_harness.doctor import ENOUGH, INEXACT, NOTHING, Diagnosis, Finding
from kmem_harness.doctor.trial import run_trial
from tests.support.no_seccomp import WithoutSeccomp

ROOT = Path(__file__).parents[2]
DOCTOR = [sys.executable, "-m", "kmem_harness", "doctor"]


def run(command):
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def finding(name, *, ok, required=False, exact=False):
    return Finding(name, ok, required, "looking", "as it is", "mend it", exact)


def test_doctor_when_limits_hold_here_then_says_so_and_what_boxes_get():
    outcome = run([*DOCTOR, "--json"])
    said = json.loads(outcome.stdout)
    assert outcome.returncode == said["verdict"] < NOTHING, outcome.stdout
    with Harness() as harness:
        assert said["isolation"] == harness.isolation
    assert said["listeners"]["local"] == "shim"
    assert f"isolation {said['isolation']}" in said["takes_away"]
    assert all(said["takes_away"].values())
    tried = {row["facility"]: row for row in said["findings"]}
    assert tried["a limit binds"]["ok"]
    assert tried["what is gone is given back"]["ok"], tried["what is gone is given back"]
    assert "18 kinds charged" in tried["every kind is counted"]["detail"]


def test_doctor_when_seccomp_is_denied_then_nothing_can_be_enforced():
    outcome = run(WithoutSeccomp.command(DOCTOR))
    assert outcome.returncode == NOTHING
    last = outcome.stdout.splitlines()[-1]
    assert last == "verdict: no limit can be enforced here: a limit binds"


@pytest.mark.parametrize("fault", ["pipe2:error=EMFILE", "%file:error=ENOMEM"])
def test_trial_when_a_kind_cannot_be_made_then_names_it_and_why(monkeypatch, fault):
    """As in a sandbox that denies some calls: what cannot be tried is not said to work."""
    run_box = Harness.run

    def faulty(harness, command, **options):
        faults = [fault] if harness.kernel == "5.10" else []
        return run_box(harness, command, faults=faults, **options)

    monkeypatch.setattr(Harness, "run", faulty)
    trial = run_trial()
    assert trial.limit is None
    assert trial.kinds


@pytest.mark.parametrize(
    ("findings", "verdict", "sentence"),
    [
        ([finding("one", ok=True, required=True)], ENOUGH, "all that boxes need is here"),
        ([finding("docker", ok=False)], ENOUGH, "all that boxes need is here"),
        (
            [finding("births", ok=False, exact=True), finding("docker", ok=False)],
            INEXACT,
            "limits hold here, with something less exact: births",
        ),
        (
            [finding("births", ok=False, exact=True), finding("shim", ok=False, required=True)],
            NOTHING,
            "no limit can be enforced here: shim",
        ),
    ],
)
def test_verdict_when_something_is_missing_then_is_as_bad_as_the_worst(findings, verdict, sentence):
    diagnosis = Diagnosis(findings, "none", {"local": "shim"})
    assert (diagnosis.verdict, diagnosis.sentence) == (verdict, sentence)
