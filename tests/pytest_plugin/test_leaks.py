"""What ``limit_kmem_leaks`` counts, where the kernel charges every kind of object."""

from __future__ import annotations

import shutil

import pytest

from tests.pytest_plugin.test_sample import SAMPLE

TESTS = """
import pytest
from workloads import OBEDIENT, tell

@pytest.fixture
def server(kmem_container):
    box = kmem_container(**OBEDIENT)
    assert tell(box, "socket", 1) == [1, None]
    return box

@pytest.mark.limit_kmem_leaks
def test_idle_program_passes(kmem_container):
    tell(kmem_container(**OBEDIENT), "socket", 0)

@pytest.mark.limit_kmem_leaks
def test_child_of_a_program_leaks(kmem_container):
    tell(kmem_container(**OBEDIENT), "fork", 1)

@pytest.mark.limit_kmem_leaks
def test_what_a_server_held_already_passes(server):
    tell(server, "socket", 0)

@pytest.mark.limit_kmem_leaks
def test_socket_of_a_server_leaks(server):
    tell(server, "socket", 1)

@pytest.mark.limit_kmem_leaks
def test_unwatched_container_leaks(kmem_container):
    kmem_container(**OBEDIENT, mode="enforce")
"""


def test_leaks_when_every_kind_is_charged_then_only_what_grew_fails_the_test(project):
    shutil.copy(SAMPLE / "workloads.py", project.pytester.path)
    project.pytester.makepyfile(test_it=TESTS)
    result = project.run()
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.re_match_lines_random(
        [
            r"limit_kmem_leaks: \d+\.\dK of kernel memory still held at the test's end",
            r"  c1: .*: 1 task \(\d+\.\dK\)",
            r"  \(what a container holds when the test begins is no leak: start it in a fixture\)",
            r"  c1: .*: 2 unix-socket \(\d+\.\dK\).*",
            r"limit_kmem_leaks: c1: .*: runs without a limit, so nobody counts what it holds; .*",
        ]
    )


BUSY_TESTS = """
import sys
import pytest
from workloads import OBEDIENT, tell

# Makes a child at each order, answers, and computes for a while; the first child is gone by then.
BUSY = '''
import os, signal, sys, time
for number, order in enumerate(sys.stdin):
    pid = os.fork() or signal.pause()
    if number == 0:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    print("[1, null]", flush=True)
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        pass
'''

@pytest.fixture
def server(kmem_container):
    command = [sys.executable, "-I", "-S", "-c", BUSY]
    box = kmem_container(**OBEDIENT | {"command": command})
    assert tell(box, "go", 1) == [1, None]
    return box

@pytest.mark.limit_kmem_leaks
def test_child_of_a_busy_server_leaks(server):
    tell(server, "go", 1)
"""


def test_leaks_when_a_call_before_may_still_be_under_way_then_the_beginning_waits_for_it(project):
    shutil.copy(SAMPLE / "workloads.py", project.pytester.path)
    project.pytester.makepyfile(test_it=BUSY_TESTS)
    result = project.run("--kmem-limit=4M", "--kmem-kernel=v4")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines_random([r"  c1: .*: 1 task \(8\.0K\)"])


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ('"max"', "no limit at all checks nothing"),
        ('"2KBjunk"', "not a size: '2KBjunk'"),
        ('sise="0"', "unexpected keyword argument 'sise'"),
    ],
)
def test_marker_when_unusable_then_its_test_fails_with_value_and_rule(argument, named, project):
    project.tests(f"@pytest.mark.limit_kmem_leaks({argument})\ndef test_bad(): pass")
    result = project.run_here()
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    assert ": marker limit_kmem_leaks(size='0'): " in text
    assert named in text


def test_leak_when_a_process_has_it_open_then_is_named_with_its_descriptors(project):
    project.tests("""
CODE = "import os, sys; kept = [os.pipe() for _ in range(2)]; print('made', flush=True); sys.stdin.read()"

@pytest.mark.limit_kmem_leaks
def test_it(kmem_container):
    box = kmem_container([sys.executable, "-I", "-S", "-c", CODE], **PIPES)
    box.running.stdout.readline()
""")
    result = project.run_here()
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines_random([r".*2 pipe \(.*\): 2 by python\S*\[\d+\] \(fd 3, 5\).*"])
