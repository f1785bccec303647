"""A project of some fifty tests, as outsiders write them, run in every way that pytest can run it.

Its tests stand in ``sample/``; those whose names end in ``_fails`` or ``_failed`` are to fail.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.pytest_plugin.conftest import PLUGIN
from tests.support.schemas import check

SAMPLE = Path(__file__).parent / "sample"
OUTCOMES = {"passed": 35, "failed": 11, "skipped": 1, "xfailed": 1}
#: Runs of sweeps that fail, which newer releases of pytest count, too.
FAILED_SUBTESTS = 1 if hasattr(pytest, "Subtests") else 0
#: Tests that have nothing to do with us.
WITHOUT_MEMCG = 1
XDIST = ("-p", "xdist", "-n", "2")
#: Why each test fails with us; one fails without our having a part in it.
FAILURES = {
    "test_faults.py::TestSwept::test_failure_that_goes_unnoticed_fails": "sweep",
    "test_faults.py::TestSwept::test_nothing_to_sweep_fails": "sweep",
    "test_leaks.py::test_more_than_allowed_fails": "leak",
    "test_leaks.py::test_leak_without_a_limit_fails": "leak",
    "test_scopes.py::test_leak_of_a_longer_lived_container_fails": "leak",
    "test_unittest.py::TestServer::test_leak_fails": "leak",
    "test_outcomes.py::test_refused_and_failed": "refused",
    "test_scopes.py::test_refusal_of_a_longer_lived_container_fails": "refused",
    "test_unittest.py::TestServer::test_refusal_fails": "refused",
    "test_outcomes.py::test_timeout_fails": "timeout",
}
ALSO_FAILS = "test_outcomes.py::test_failed_without_a_refusal"


@pytest.fixture
def sample(project):
    shutil.copytree(SAMPLE, project.pytester.path, dirs_exist_ok=True)
    return project


def check_outcomes(result):
    """See that every test ended as its name says."""
    result.assert_outcomes(**{**OUTCOMES, "failed": OUTCOMES["failed"] + FAILED_SUBTESTS})
    assert failed(result) == {*FAILURES, ALSO_FAILS}


def failed(result):
    """Name the tests that the short summary says failed, with K or without."""
    return {
        match[1]
        for line in result.outlines
        if (match := re.match(r"FAILED (?:\(kmem\) )?(\S+)", line))
    }


def figures_of_junit(path):
    """Give the kmem properties of each test case."""
    return {
        f"{case.get('classname')}::{case.get('name')}": {
            one.get("name"): int(value)
            if (value := one.get("value")).removeprefix("-").isdigit()
            else value
            for one in case.iter("property")
        }
        for case in ET.parse(path).iter("testcase")  # noqa: S314 - written by pytest just now
    }


def check_files(path, *, workers):
    """See that JSON and JUnit agree on what every test used and was refused."""
    report = json.loads((path / "kmem.json").read_text())
    check("suite", report)
    rows = {row["nodeid"]: row for row in report["tests"]}
    shared = "test_scopes.py::test_refusal_of_a_longer_lived_container_fails"
    assert rows[shared]["refusals"] == {"total": 1, "by_kind": {"task": 1}}
    assert rows[shared]["shared"] == "test_scopes.py"
    assert len(rows) == len(report["tests"]) == sum(OUTCOMES.values()) - WITHOUT_MEMCG
    assert {name: row["failure"] for name, row in rows.items() if row["failure"]} == FAILURES
    assert {row["worker"] for row in report["tests"]} == workers
    row = rows["test_limits.py::test_marker_takes_bytes_and_refuses"]
    assert row["memcg"]["kmem"] == {"limit": 32768, "usage": 0, "max_usage": 32768, "failcnt": 1}
    assert row["refusals"] == {"total": 1, "by_kind": {"task": 1}}
    assert row["outcome"] == "passed"
    assert row["containers"][0]["timeline"]["usage"]
    assert (
        rows["test_limits.py::test_settings_limit_the_memcg"]["memcg"]["kmem"]["limit"] == 4 << 20
    )
    assert {row["scope"] for row in report["memcgs"]} == {"module", "session"}

    cases = figures_of_junit(path / "junit.xml")
    assert len(cases) == sum(OUTCOMES.values())
    for name, row in rows.items():
        module, _, rest = name.partition(".py::")
        case = cases[_case(module, rest)]
        kmem = row["memcg"]["kmem"]
        assert case["kmem_limit"] == kmem["limit"]
        assert case.get("kmem_ended", "") == ",".join(row["ended"])
        assert case["kmem_max_usage"] == kmem["max_usage"]
        assert case["kmem_failcnt"] == kmem["failcnt"]
        assert case["kmem_refused"] == row["refusals"]["total"]
        for kind, count in row["refusals"]["by_kind"].items():
            assert case[f"kmem_refused_{kind}"] == count


def _case(module, rest):
    *classes, name = rest.split("::")
    return f"{'.'.join([module, *classes])}::{name}"


FILES = ("--kmem-report=json:kmem.json", "--junitxml=junit.xml")
KEPT = ("--kmem-keep=failed", "--kmem-keep-dir=left", "--kmem-update-baseline", "--kmem-require")


def check_kept(path):
    """See that failed tests' containers left what they had, and passing tests entered the baseline."""
    kept = {folder.name for folder in (path / "left").iterdir()}
    assert "test_outcomes.py_test_refused_and_failed" in kept
    assert len(kept) >= len(FAILURES) - len(["one whose containers a module shares"])
    assert not any("test_refused_and_passed" in name for name in kept)
    baseline = json.loads((path / "kmem-baseline.json").read_text())["tests"]
    passing = "test_limits.py::test_marker_takes_bytes_and_refuses"
    assert baseline[passing] == {"max_usage": 32768}
    assert not FAILURES.keys() & baseline.keys()


def test_sample_when_run_then_ends_as_it_should_and_its_files_say_what_it_used(sample, monkeypatch):
    monkeypatch.setenv("KMEM_HARNESS_LIMIT", "3M")  # over the ini value, under the option
    result = sample.run("--kmem-limit=4M", *FILES)
    check_outcomes(result)
    letters = "".join(re.findall(r"^\S+\.py (\S+)", result.stdout.str(), re.MULTILINE))
    assert letters.count("K") == len(FAILURES)
    assert letters.count("F") == 1
    check_files(sample.pytester.path, workers={None})
    result.stdout.fnmatch_lines(["*KmemWarning: *test_marker_beats_settings: * no difference: *"])
    result.stdout.fnmatch_lines(
        [
            "kmem: limit 4M (--kmem-limit), kernel v4 (ini kmem_kernel), runtime local, *",
            "*= kmem =*",
            "at most *limit *refused",
        ]
    )
    header = next(line for line in result.outlines if line.startswith("kmem: "))
    for setting in (
        "timeout 60 (ini kmem_timeout)",
        "top 3 (ini kmem_top)",
        "report json:kmem.json (--kmem-report)",
    ):
        assert setting in header
    table = result.stdout.str().partition("= kmem =")[2]
    assert "... and " in table
    assert "failed with kmem: 4 leak, 3 refused, 2 sweep, 1 timeout" in table


def test_sample_when_the_plugin_is_blocked_then_strictness_names_what_is_missing(sample):
    (sample.pytester.path / "pytest.ini").unlink()  # else strict config finds our values
    result = sample.pytester.runpytest_subprocess("-p", f"no:{PLUGIN}")
    text = result.stdout.str() + result.stderr.str()
    assert "'limit_kmem' not found in `markers`" in text
    assert "'limit_kmem_leaks' not found in `markers`" in text
    assert "Unknown config option: kmem_" not in text


@pytest.mark.slow
def test_sample_when_spread_over_workers_then_ends_the_same_and_is_reported_in_one_place(sample):
    result = sample.run("--kmem-limit=4M", *XDIST, *FILES)
    check_outcomes(result)
    check_files(sample.pytester.path, workers={"gw0", "gw1"})
    assert "failed with kmem: 4 leak, 3 refused, 2 sweep, 1 timeout" in result.stdout.str()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sample_when_shuffled_then_ends_the_same(seed, sample):
    order = ("--random-order-bucket=global", f"--random-order-seed={seed}")
    result = sample.run("-p", "random_order.plugin", *order)
    check_outcomes(result)


@pytest.mark.slow
def test_sample_when_stopped_at_the_first_failure_then_goes_on_with_those_that_failed(sample):
    result = sample.run("-x")
    assert len(failed(result)) == 1
    result = sample.run()
    check_outcomes(result)
    result = sample.run("--lf")
    assert result.parseoutcomes().keys() == {"failed", "deselected"}  # and whole files left out
    assert failed(result) == {*FAILURES, ALSO_FAILS}


@pytest.mark.slow
def test_sample_when_files_are_to_be_kept_then_a_second_run_is_compared_with_the_first(sample):
    # What is to be kept is counted; that test is about what is not.
    but = "--deselect=test_limits.py::test_marker_takes_the_limit_away"
    assert failed(sample.run(but, *KEPT)) == {*FAILURES, ALSO_FAILS}
    check_kept(sample.pytester.path)
    again = sample.run(but, "--kmem-fail-on-increase=10%", "--kmem-runtime=local")
    assert failed(again) == {*FAILURES, ALSO_FAILS}
    assert "rose from" not in again.stdout.str()
