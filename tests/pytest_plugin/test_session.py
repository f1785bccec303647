"""What a run shows, what is left when tests end, and how the plugin stays out of the way."""

from __future__ import annotations

import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.pytest_plugin.conftest import PLUGIN

INSTALLED = any(point.name == "kmem_harness" for point in entry_points(group="pytest11"))


def test_report_when_test_fails_then_shows_what_its_containers_were_refused(project):
    project.tests("""
@pytest.mark.limit_kmem("16k")
def test_fails(kmem_container):
    box = kmem_container(HELD, **PIPES)
    made_and_refused(box)
    assert False

@pytest.mark.limit_kmem("16k")
def test_fails_without_containers():
    assert False

@pytest.mark.limit_kmem("16k")
def test_passes(kmem_container):
    made_and_refused(kmem_container(HELD, **PIPES))
""")
    result = project.run("--kmem-kernel=v4")
    result.assert_outcomes(failed=2, passed=1)
    text = result.stdout.str()
    assert text.count("- kmem -") == 1
    result.stdout.re_match_lines(
        [
            r".*-+ kmem -+",
            r"/pytest/test_it\.py::test_fails: at most 16384 of 16384 bytes",
            r"c1: .*\.\.\.: at most \d+ bytes, 1 refused",
            r"  \w+ by python.*: ENOMEM, 8192 bytes for a task; kmem of .* at 16384 of 16384",
        ]
    )


def test_containers_when_test_ends_then_end_with_it(project):
    project.tests("""
SEEN = {}

@pytest.mark.parametrize("how", ["pass", "fail"])
@pytest.mark.limit_kmem("1M")
def test_leaves_containers_running(kmem_container, kmem_memcg, how):
    daemon = "(setsid sleep 3141.59 &) ; sleep 2718.28"
    boxes = [kmem_container(["sh", "-c", daemon]) for _ in range(2)]
    SEEN["boxes"], SEEN["memcg"] = boxes, kmem_memcg.path
    assert how == "pass"

def processes_left():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\\0")
        except OSError:
            continue
        if str(os.getpid()).encode() != pid and b"3141.59" in words or b"2718.28" in words:
            found.append((pid, words))
    return found

def test_nothing_is_left(kmem_harness):
    assert not processes_left()
    assert kmem_harness.memcg("/pytest").children() == []
    for box in SEEN["boxes"]:
        assert box.status is not None
        assert box.report()["memcg"]["kmem"]["usage"] == 0
""")
    project.run("--kmem-kernel=v4").assert_outcomes(passed=2, failed=1)


def test_session_when_it_ends_then_controller_and_its_directory_are_gone(project):
    project.tests("""
@pytest.mark.limit_kmem("1M")
def test_one(kmem_container, kmem_harness):
    kmem_container(["sleep", "1000"])
    print("controller", kmem_harness.controller.pid, kmem_harness.controller.directory)
""")
    result = project.run("-s")
    result.assert_outcomes(passed=1)
    (line,) = [line for line in result.outlines if "controller " in line]
    pid, directory = line.split("controller ")[1].split()
    deadline = time.monotonic() + 2
    while Path("/proc", pid).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path("/proc", pid).exists()
    assert not Path(directory).exists()


def test_unrelated_run_when_plugin_is_there_then_it_shows_and_starts_nothing(project):
    project.tests("""
def test_unrelated():
    loaded = [name for name in sys.modules if name.startswith("kmem_harness")]
    assert {f"{name}..".split(".")[1] for name in loaded} <= {"", "pytest_plugin"}
    assert not {"docker", "rich", "structlog"} & sys.modules.keys()
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    assert not children
""")
    result = project.run()
    result.assert_outcomes(passed=1)
    assert not [line for line in result.outlines if line.startswith("kmem")]


def test_plugin_when_blocked_then_run_goes_on_without_it(project):
    project.tests(
        "def test_one(pytestconfig):\n    assert not pytestconfig.pluginmanager."
        f"has_plugin({PLUGIN!r})"
    )
    result = project.pytester.runpytest_subprocess("-p", f"no:{PLUGIN}")
    result.assert_outcomes(passed=1)
    project.tests('@pytest.mark.limit_kmem("1M")\ndef test_one(): pass')
    result = project.pytester.runpytest_subprocess("-p", f"no:{PLUGIN}")
    assert "limit_kmem" in result.stdout.str()
    result.assert_outcomes(errors=1)


@pytest.mark.skipif(not INSTALLED, reason="kmem-harness is not installed: no entry point")
def test_plugin_when_installed_then_needs_no_option(project, monkeypatch):
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    project.tests("def test_one(kmem_memcg):\n    assert kmem_memcg.kmem.limit == 1 << 20")
    project.pytester.runpytest_subprocess("--kmem-limit=1M").assert_outcomes(passed=1)
    blocked = project.pytester.runpytest_subprocess("-p", "no:kmem_harness")
    blocked.assert_outcomes(errors=1)


def test_help_when_asked_for_then_documents_options_markers_and_fixtures(project):
    result = project.run("--help")
    result.stdout.fnmatch_lines_random(["*--kmem-limit=*", "*--kmem-require*", "*kmem_limit*"])
    result = project.run("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.limit_kmem(size*"])
    project.tests("")
    result = project.run("--fixtures")
    result.stdout.fnmatch_lines_random(["kmem_harness*", "kmem_memcg*", "kmem_container*"])
