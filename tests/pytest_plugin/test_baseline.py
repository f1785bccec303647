"""A test is compared with what it used before; the baseline is a file to be committed."""

from __future__ import annotations

import json

import pytest

#: ``FORKS`` children; the file says how many.
TESTS = """
@pytest.mark.parametrize("name", ["steady", "growing"])
def test_it(kmem_container, name):
    count = int(open(name).read())
    script = "sleep 1000 & " * count + "echo made; wait"
    box = kmem_container(["sh", "-c", script], **PIPES)
    assert box.running.stdout.readline() == b"made\\n"
    assert not os.path.exists(f"fail-{name}")
"""
V4 = "--kmem-kernel=v4"


@pytest.fixture
def forks(project):
    """Say how many children each test makes."""

    def say(steady, growing):
        (project.pytester.path / "steady").write_text(str(steady))
        (project.pytester.path / "growing").write_text(str(growing))

    project.tests(TESTS)
    return say


def baseline(project):
    content = json.loads((project.pytester.path / "kmem-baseline.json").read_text())
    assert content["kernel"] == "v4"
    return {name: row["max_usage"] // 8192 for name, row in content["tests"].items()}


STEADY, GROWING = "test_it.py::test_it[steady]", "test_it.py::test_it[growing]"


def test_baseline_when_usage_grows_past_it_then_the_test_fails_with_both_figures(project, forks):
    project.ini("kmem_fail_on_increase = 10%")
    forks(10, 10)
    result = project.run_here(V4, "--kmem-update-baseline")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["baseline: *kmem-baseline.json, 2 tests entered"])
    assert baseline(project) == {STEADY: 10, GROWING: 10}

    forks(11, 12)  # the first is just 10 % more
    result = project.run_here(V4)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "kmem usage rose from 80.0K to 96.0K (16384 bytes, 20.0 %); allowed are 10 %*",
            "failed with kmem: 1 increase",
            "FAILED (kmem) test_it.py::test_it?growing? *",
        ]
    )
    project.run_here(V4, "--kmem-fail-on-increase=20%").assert_outcomes(passed=2)


def test_baseline_when_updated_then_keeps_the_tests_that_did_not_run_or_did_not_pass(
    project, forks
):
    forks(3, 3)
    project.run_here(V4, "--kmem-update-baseline").assert_outcomes(passed=2)
    forks(5, 5)
    result = project.run_here(V4, "--kmem-update-baseline", "-k", "steady")
    result.stdout.fnmatch_lines(["baseline: *, 1 tests entered, 1 of other tests kept"])
    assert baseline(project) == {STEADY: 5, GROWING: 3}
    (project.pytester.path / "fail-growing").touch()
    project.run_here(V4, "--kmem-update-baseline").assert_outcomes(passed=1, failed=1)
    assert baseline(project) == {STEADY: 5, GROWING: 3}


@pytest.mark.slow
def test_baseline_when_workers_share_a_run_then_is_written_once_and_read_by_all(project, forks):
    forks(2, 2)
    workers = ("-p", "xdist", "-n", "2")
    project.run(V4, "--kmem-update-baseline", *workers).assert_outcomes(passed=2)
    assert baseline(project) == {STEADY: 2, GROWING: 2}
    forks(4, 4)
    project.run(V4, "--kmem-fail-on-increase=0%", *workers).assert_outcomes(failed=2)


@pytest.mark.parametrize(
    ("content", "options", "named"),
    [
        (None, ["--kmem-fail-on-increase=1%"], ["no baseline", "--kmem-update-baseline"]),
        ("{}", ["--kmem-fail-on-increase=1%"], ["is not a baseline", "kmem-baseline.json"]),
        ("[", ["--kmem-fail-on-increase=1%"], ["is not a baseline"]),
        (
            '{"version": 1, "kernel": "3.8", "tests": {}}',
            ["--kmem-fail-on-increase=1%"],
            ["kernel 3.8", "emulates 5.10", "--kmem-update-baseline"],
        ),
        (
            None,
            ["--kmem-update-baseline", "--kmem-fail-on-increase=1%"],
            ["--kmem-update-baseline 'True' contradicts", "--kmem-fail-on-increase '1%'"],
        ),
    ],
    ids=["missing", "empty", "broken", "other-kernel", "both"],
)
def test_baseline_when_it_cannot_be_compared_with_then_usage_error(
    content, options, named, project
):
    project.tests("def test_one(): open('ran', 'w')")
    if content is not None:
        (project.pytester.path / "kmem-baseline.json").write_text(content)
    result = project.run_here(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    for part in named:
        assert part in result.stderr.str()
    assert not (project.pytester.path / "ran").exists()
