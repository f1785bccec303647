"""What a run writes and shows: cards, summary, annotations, kept files; and what a crash leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

BOMB = """
@pytest.mark.limit_kmem("16k")
def test_bomb(kmem_container):
    script = "for i in $(seq 12); do sleep 1000 & done"
    shells = "; ".join(f"sh -c '{script}'" for _ in range(8))
    box = kmem_container(["sh", "-c", shells + "; exit 0"])
    box.wait(timeout=30)
    assert len(box.refusals) == 8
    assert False
"""
V4 = "--kmem-kernel=v4"


@pytest.mark.parametrize(
    ("options", "cards", "more"),
    [(("-v",), 5, True), (("-vv",), 8, False)],
    ids=["-v", "-vv"],
)
def test_cards_when_there_are_many_then_few_are_shown_unless_asked(options, cards, more, project):
    project.tests(BOMB)
    result = project.run_here(V4, *options)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert text.count(": ENOMEM, 8192 bytes for a task") == cards
    assert ("... and 3 more: -vv shows them" in text) == more


@pytest.mark.parametrize(
    ("options", "users"),
    [((), 2), (("--kmem-top=1",), 1), (("--kmem-top=0",), 0), (("-v",), 3), (("-q",), 0)],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_summary_when_tests_used_memory_then_shows_the_top_users(options, users, project):
    project.ini("kmem_top = 2")
    project.tests("""
@pytest.mark.limit_kmem("1M")
@pytest.mark.parametrize("count", [1, 3, 2])
def test_it(kmem_container, count):
    script = "sleep 1000 & " * count + "echo made; wait"
    kmem_container(["sh", "-c", script], **PIPES).running.stdout.readline()

def test_uncounted(kmem_container):
    kmem_container(["true"]).wait(timeout=30)

def test_unrelated():
    pass
""")
    result = project.run_here(V4, *options)
    result.assert_outcomes(passed=5)
    rows = [line for line in result.outlines if line.endswith("]") and "1.0M" in line]
    expected = [f"test_it.py::test_it[{count}]" for count in (3, 2, 1)][:users]
    assert [row.split()[-1] for row in rows] == expected
    if users:
        assert rows[0].split() == ["24.0K", "1.0M", "-", expected[0]]
    else:
        assert "= kmem =" not in result.stdout.str()


def test_annotations_when_on_github_then_name_file_line_and_reason(project, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.pytester.path.parent))
    project.tests("""
@pytest.mark.limit_kmem_leaks
@pytest.mark.parametrize("what", ["a,b:c%"])
def test_leaks(kmem_container, what):
    kmem_container(["sh", "-c", "sleep 1000 & echo made; wait"], **PIPES).running.stdout.readline()

def test_fails_otherwise():
    assert False
""")
    result = project.run_here(V4)
    (line,) = [line for line in result.outlines if line.startswith("::error ")]
    properties, _, text = line.removeprefix("::error ").partition("::")
    named = dict(one.split("=", 1) for one in properties.split(","))
    assert named["file"] == f"{project.pytester.path.name}/test_it.py"
    source = (project.pytester.path / "test_it.py").read_text().splitlines()
    assert source[int(named["line"]) - 1].startswith("@pytest.mark.limit_kmem_leaks")
    assert named["title"] == "kmem leak%3A test_it.py%3A%3Atest_leaks[a%2Cb%3Ac%25]"
    assert text.startswith("limit_kmem_leaks: 8.0K of kernel memory still held")
    assert "%0A  c1: sh -c" in text


def test_reason_when_a_container_failed_at_its_limit_then_stands_wherever_the_test_is_told_of(
    project, monkeypatch
):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.tests("""
@pytest.mark.limit_kmem("16k")
def test_it(kmem_container):
    assert kmem_container(["sh", "-c", "sleep 9 & sleep 9 & sleep 9"]).wait(timeout=30) == 0
""")
    result = project.run_here(V4, "--kmem-report=json:kmem.json", "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "1 refused, ended: kmem-limit" in text
    assert "title=kmem refused (kmem-limit)%3A" in text
    (row,) = json.loads((project.pytester.path / "kmem.json").read_text())["tests"]
    assert row["ended"] == ["kmem-limit"]
    assert row["containers"][0]["ended"]["card"]["errno"] == "ENOMEM"
    junit = (project.pytester.path / "junit.xml").read_text()
    assert '<property name="kmem_ended" value="kmem-limit"' in junit


@pytest.mark.parametrize(
    ("when", "kept"), [("never", set()), ("failed", {"fail"}), ("always", {"fail", "pass"})]
)
def test_keep_when_tests_end_then_what_containers_left_stays_as_asked(when, kept, project):
    project.tests("""
@pytest.mark.limit_kmem("16k")
@pytest.mark.parametrize("how", ["pass", "fail"])
def test_it(kmem_container, how):
    kmem_container(["sh", "-c", "sleep 9 & sleep 9 & sleep 9"]).wait(timeout=30)
    assert how == "pass"
""")
    result = project.run_here(V4, f"--kmem-keep={when}")
    result.assert_outcomes(passed=1, failed=1)
    folder = project.pytester.path / "kmem-kept"
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert names == {f"test_it.py_test_it[{how}]" for how in kept}
    for name in names:
        report = json.loads((folder / name / "c1" / "report.json").read_text())
        lines = (folder / name / "c1" / "refusals.jsonl").read_text().splitlines()
        assert len(lines) == report["refusals"]["total"] >= 1
        assert report["memcg"]["path"].endswith("/c1")
    assert ("kept: what " in result.stdout.str()) == bool(kept)


def test_report_file_when_it_cannot_be_written_then_the_run_fails_and_says_so(project):
    project.tests("""
def test_one(kmem_container):
    os.mkdir("report.json")
""")
    result = project.run_here("--kmem-report=json:report.json")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["report json:*report.json could not be written: *"])


@pytest.mark.slow
def test_worker_when_it_crashes_then_leaves_nothing_and_the_rest_is_reported(project):
    project.tests("""
@pytest.mark.limit_kmem("1M")
@pytest.mark.parametrize("number", range(4))
def test_it(kmem_container, kmem_harness, number):
    box = kmem_container(["sh", "-c", "(setsid sleep 4141.4 &); sleep 4141.4"])
    with open(f"pids-{number}", "w") as file:
        print(kmem_harness.controller.pid, box.running.init_pid, kmem_harness.controller.directory, file=file)
    if number == 2:
        os.kill(os.getpid(), 9)
""")
    result = project.run("-p", "xdist", "-n", "2", "--kmem-report=json:kmem.json")
    result.assert_outcomes(passed=3, failed=1)
    report = json.loads((project.pytester.path / "kmem.json").read_text())
    assert {row["nodeid"][-2] for row in report["tests"]} == {"0", "1", "3"}
    for number in range(4):
        controller, init, directory = (project.pytester.path / f"pids-{number}").read_text().split()
        _await_gone(Path("/proc", controller))
        _await_gone(Path("/proc", init))
        _await_gone(Path(directory))


def _await_gone(path):
    deadline = time.monotonic() + 10
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is still there"
        time.sleep(0.01)
