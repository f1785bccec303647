"""The plugin beside others: what runs a test again, in parts, in other processes, or shows nothing."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

V4 = "--kmem-kernel=v4"
WAYS = pytest.mark.parametrize("way", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "in workers"])
REPORT = "--kmem-report=json:kmem.json"


def rows_of(project):
    return json.loads((project.pytester.path / "kmem.json").read_text())["tests"]


def properties_of(project):
    """Give the kmem properties of each test case in JUnit's file."""
    tree = ET.parse(project.pytester.path / "junit.xml")  # noqa: S314 - written by pytest just now
    return [
        [(one.get("name"), one.get("value")) for one in case.iter("property")]
        for case in tree.iter("testcase")
    ]


@WAYS
def test_rerun_when_it_passes_then_nothing_of_the_failed_run_is_left(way, project, monkeypatch):
    """JSON, annotations and JUnit went on saying what was wrong with the run before."""
    pytest.importorskip("pytest_rerunfailures")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.tests("""
@pytest.mark.limit_kmem("16k")
@pytest.mark.flaky(reruns=2)
def test_it(kmem_container, request):
    made_and_refused(kmem_container(HELD, **PIPES))
    assert request.node.execution_count == 2
""")
    result = project.run(*("-p", "pytest_rerunfailures", V4, REPORT, "--junitxml=junit.xml", *way))
    result.assert_outcomes(passed=1)
    (row,) = rows_of(project)
    assert (row["outcome"], row["failure"], row["reruns"]) == ("passed", None, 1)
    assert row["refusals"]["total"] == 1
    assert "::error" not in result.stdout.str()
    assert "failed with kmem" not in result.stdout.str()
    for properties in properties_of(project):
        assert len(dict(properties)) == len(properties)


@WAYS
def test_rerun_when_all_fail_then_it_is_said_once(way, project, monkeypatch):
    pytest.importorskip("pytest_rerunfailures")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.tests("""
@pytest.mark.limit_kmem("16k")
def test_it(kmem_container):
    made_and_refused(kmem_container(HELD, **PIPES))
    assert False
""")
    result = project.run("-p", "pytest_rerunfailures", "--reruns=2", V4, REPORT, *way)
    result.assert_outcomes(failed=1)
    (row,) = rows_of(project)
    assert (row["outcome"], row["failure"], row["reruns"]) == ("failed", "refused", 2)
    assert result.stdout.str().count("::error") == 1


@WAYS
def test_subtests_when_they_share_a_container_then_each_refusal_is_recorded_once(way, project):
    """Each subtest's report took down once more what the whole test was refused."""
    more = ()
    if not hasattr(pytest, "Subtests"):
        pytest.importorskip("pytest_subtests")
        more = ("-p", "subtests")
    project.tests("""
@pytest.fixture(scope="module")
def bomb(kmem_container_module):
    def start():
        box = kmem_container_module(HELD, kmem_limit="16k", **PIPES)
        return made_and_refused(box)
    return start

def test_parts(bomb, subtests):
    for number in range(3):
        with subtests.test(number=number):
            assert bomb()[1] == ("ENOMEM" if number < 2 else None)
    with subtests.test("nothing refused here"):
        assert False
""")
    result = project.run(V4, REPORT, *more, *way)
    assert result.ret == 1
    (row,) = rows_of(project)
    assert row["shared"] == "test_it.py"
    assert row["refusals"] == {"total": 3, "by_kind": {"task": 3}}


@WAYS
def test_marker_when_it_made_no_difference_in_a_test_that_fails_then_that_is_said(way, project):
    project.tests("""
@pytest.mark.limit_kmem("8M")
def test_it():
    assert False

@pytest.mark.limit_kmem("8M")
def test_skipped():
    pytest.skip("nothing to say")
""")
    result = project.run(*way)
    result.assert_outcomes(failed=1, skipped=1, warnings=1)
    result.stdout.fnmatch_lines(["*KmemWarning: test_it.py::test_it: *made no difference*"])


def test_terminal_when_there_is_none_then_a_failing_test_is_one_all_the_same(project):
    project.tests("""
@pytest.mark.limit_kmem("16k")
def test_it(kmem_container):
    made_and_refused(kmem_container(HELD, **PIPES))
    assert False
""")
    result = project.run("-p", "no:terminal", V4, REPORT)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert rows_of(project)[0]["failure"] == "refused"


@pytest.mark.parametrize(
    "listing", ["--collect-only", "--fixtures", "--fixtures-per-test", "--setup-plan", "-k=none"]
)
def test_report_when_no_test_ran_then_that_of_an_earlier_run_stays(listing, project):
    project.tests("def test_it(kmem_container): kmem_container(['true'])")
    assert project.run_here(REPORT).ret == 0
    before = rows_of(project)
    assert len(before) == 1
    project.run_here(REPORT, listing)
    assert rows_of(project) == before


def test_report_when_tests_are_only_listed_then_none_is_written(project):
    project.tests("def test_it(kmem_container): kmem_container(['true'])")
    project.run_here(REPORT, "--collect-only")
    assert not (project.pytester.path / "kmem.json").exists()


@WAYS
def test_session_when_stopped_at_the_first_failure_then_its_figures_are_kept(way, project):
    """pytest 7 ends the session's fixtures after the last report there is."""
    project.tests(
        """
@pytest.fixture(scope="session", autouse=True)
def server(kmem_container_session):
    kmem_container_session(["true"], kmem_limit="1M").wait(timeout=30)

def test_fails():
    assert False

def test_more(): pass
def test_yet_more(): pass
"""
    )
    result = project.run("-x", REPORT, *way)
    assert result.ret in (1, 2)
    report = json.loads((project.pytester.path / "kmem.json").read_text())
    assert {row["scope"] for row in report["memcgs"]} == {"session"}
    assert all(row["nr_containers"] == 1 for row in report["memcgs"])


@WAYS
def test_class_scope_when_a_class_shares_a_container_then_it_ends_with_the_class(way, project):
    project.tests(
        """
SEEN = []

@pytest.mark.limit_kmem("1M")
class TestShared:
    @pytest.fixture(scope="class")
    def box(self, kmem_container_class):
        return kmem_container_class(["sleep", "1000"])

    def test_first(self, box, kmem_memcg_class):
        assert limit_of(kmem_memcg_class) == 1 << 20
        SEEN.append(box)

    def test_second(self, box):
        assert SEEN == [box]
        assert box.status is None

def test_after():
    assert SEEN[0].status is not None

def test_outside_of_any_class(kmem_container, kmem_container_class):
    assert kmem_container.memcg.path != kmem_container_class.memcg.path
    kmem_container(["true"])
    kmem_container_class(["true"])
"""
    )
    group = ("--dist", "loadfile") if way else ()
    project.run(*way, *group, REPORT).assert_outcomes(passed=4)
    report = json.loads((project.pytester.path / "kmem.json").read_text())
    assert sorted(row["scope"] for row in report["memcgs"]) == ["class", "class"]


@WAYS
def test_memcgs_when_a_test_makes_some_below_its_own_then_all_go_with_it(way, project):
    project.tests("""
@pytest.mark.limit_kmem("1M")
def test_nested(kmem_memcg):
    for name in "ab":
        kmem_memcg.child(name).child("b").child("c")
    kmem_memcg.child("d")

@pytest.mark.limit_kmem("1M")
def test_occupied(kmem_harness, kmem_memcg):
    kmem_harness.run(["sleep", "1000"], memcg=kmem_memcg.child("a").child("b"))

def test_removed(kmem_memcg):
    kmem_memcg.remove()
""")
    project.run(*way).assert_outcomes(passed=3)
