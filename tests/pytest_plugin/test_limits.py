"""Which limit a test's containers get, and that they share it."""

from __future__ import annotations

import pytest


def test_marker_when_containers_fork_over_it_then_they_are_refused_together(project):
    project.tests("""
@pytest.mark.limit_kmem("32k")
def test_one(kmem_container, kmem_memcg):
    box = kmem_container(HELD, **PIPES)
    assert made_and_refused(box) == [4, "ENOMEM"]
    assert box.wait(timeout=30) == 0
    assert kmem_memcg.kmem.max_usage == 4 * TASK == kmem_memcg.kmem.limit
    assert box.refusals[0].refused_by == kmem_memcg.path
    assert box.memcg.path.startswith(kmem_memcg.path + "/")

@pytest.mark.limit_kmem("48k")
def test_two_containers_share(kmem_container, kmem_memcg):
    first = kmem_container(HELD, **PIPES)
    assert json.loads(first.running.stdout.readline()) == [5, None]
    second = kmem_container(HELD, **PIPES)
    assert json.loads(second.running.stdout.readline()) == [1, "ENOMEM"]
    assert kmem_memcg.kmem.usage == 6 * TASK
    assert second.refusals[0].refused_by == kmem_memcg.path
    first.communicate(timeout=30)
    assert kmem_memcg.kmem.usage == TASK

@pytest.mark.limit_kmem("48k")
def test_container_has_a_limit_of_its_own(kmem_container):
    box = kmem_container(HELD, kmem_limit="16k", **PIPES)
    assert made_and_refused(box) == [2, "ENOMEM"]
    assert box.refusals[0].refused_by == box.memcg.path

@pytest.mark.limit_kmem("16k", mode="observe")
def test_observe_refuses_nothing(kmem_container, kmem_memcg):
    box = kmem_container(HELD, **PIPES)
    assert made_and_refused(box) == [5, None]
    assert not box.refusals
    assert box.report()["mode"] == "observe"
    assert kmem_memcg.kmem.max_usage == 5 * TASK

@pytest.mark.limit_kmem("16k", kinds=["thread"])
def test_other_kinds_are_free(kmem_container):
    box = kmem_container(HELD, **PIPES)
    assert made_and_refused(box) == [5, None]
    assert box.report()["mode"] == "enforce"

@pytest.mark.limit_kmem(size=16384)
class TestClass:
    def test_nearest_marker_is_that_of_the_class(self, kmem_memcg):
        assert kmem_memcg.kmem.limit == 16384

    @pytest.mark.limit_kmem("max")
    def test_nearest_marker_is_that_of_the_function(self, kmem_container, kmem_memcg):
        assert kmem_memcg.kmem.limit == -1
        box = kmem_container(HELD, **PIPES)
        assert made_and_refused(box) == [5, None]
        assert box.report()["mode"] == "off"

def test_without_a_limit_nothing_is_refused(kmem_container, kmem_memcg):
    assert kmem_memcg.kmem.limit == -1
    assert made_and_refused(kmem_container(HELD, **PIPES)) == [5, None]
""")
    project.run("--kmem-kernel=v4").assert_outcomes(passed=8)


LIMITS_SEEN = """
def test_plain(kmem_memcg, kmem_harness):
    print("seen", limit_of(kmem_memcg), kmem_harness.kernel)

@pytest.mark.limit_kmem("1M")
def test_marked(kmem_memcg):
    print("marked", limit_of(kmem_memcg))
"""


@pytest.mark.parametrize(
    ("ini", "environment", "options", "seen"),
    [
        (None, None, None, (-1, "5.10")),
        ("kmem_limit = 2M", None, None, (2 << 20, "5.10")),
        ("kmem_limit = 2M\nkmem_kernel = 3.8", "3M", None, (3 << 20, "3.8")),
        ("kmem_limit = 2M", "3M", "4M", (4 << 20, "5.10")),
        (None, None, "max", (-1, "5.10")),
    ],
    ids=["default", "ini", "environment-over-ini", "option-over-environment", "option-max"],
)
def test_settings_when_given_in_several_places_then_nearest_wins_and_marker_beats_all(
    ini, environment, options, seen, project, monkeypatch
):
    if ini:
        project.ini(ini)
    if environment:
        monkeypatch.setenv("KMEM_HARNESS_LIMIT", environment)
    project.tests(LIMITS_SEEN)
    result = project.run("-s", *([f"--kmem-limit={options}"] if options else []))
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random([f"*seen {seen[0]} {seen[1]}", f"*marked {1 << 20}"])
    header = [line for line in result.outlines if line.startswith("kmem: ")]
    if ini or environment or options:
        assert len(header) == 1
        assert seen[1] in header[0]
    else:
        assert not header


def test_session_when_many_tests_run_then_they_share_one_controller(project):
    project.tests("""
PIDS = set()

@pytest.mark.parametrize("number", range(4))
def test_many(kmem_container, kmem_harness, number):
    PIDS.add(kmem_harness.controller.pid)
    assert kmem_container(["true"], kmem_limit="1M").wait(timeout=30) == 0
    assert len(PIDS) == 1
    assert kmem_harness.memcg("/pytest").children()[0].path.endswith(f"[{number}]")
    assert len(kmem_harness.memcg("/pytest").children()) == 1
""")
    project.run().assert_outcomes(passed=4)


def test_memcg_when_names_of_tests_are_odd_then_each_has_its_own(project):
    project.tests("""
@pytest.mark.parametrize("text", ["a/b", "..", "", "\\n", "\\u00e4", "x" * 300, "y" * 300])
@pytest.mark.limit_kmem("1M")
def test_odd(kmem_memcg, text):
    assert kmem_memcg.kmem.limit == 1 << 20
    assert "memory.kmem.limit_in_bytes" in kmem_memcg._controller.ls(kmem_memcg.path)
""")
    project.run().assert_outcomes(passed=7)
