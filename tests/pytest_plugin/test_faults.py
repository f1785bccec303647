"""The markers kmem_fault and kmem_sweep, as a project uses them."""

from __future__ import annotations

import re

import pytest

SOCKETS = """
SOCKETS = '''
import errno, socket
said = []
for _ in range(3):
    try:
        socket.socket().close()
        said.append("ok")
    except OSError as error:
        said.append(errno.errorcode[error.errno])
print(*said, flush=True)
'''
def said(kmem_container, code=SOCKETS, **more):
    box = kmem_container([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, **more)
    return box.communicate(timeout=30)[0].decode().split()
"""


def test_fault_when_markers_are_on_class_and_test_then_all_rules_hold(project):
    project.tests(
        SOCKETS
        + """
@pytest.mark.kmem_fault("socket:error=ENOBUFS:when=1")
class TestMarked:
    @pytest.mark.kmem_fault("socket:error=EMFILE:when=3", "socket:count")
    def test_both(self, kmem_container):
        assert said(kmem_container) == ["ENOBUFS", "ok", "EMFILE"]

    def test_one(self, kmem_container):
        assert said(kmem_container, faults=["socket:error=EIO:when=2"]) == ["ENOBUFS", "EIO", "ok"]

def test_none(kmem_container):
    assert said(kmem_container) == ["ok", "ok", "ok"]
"""
    )
    project.run("-q").assert_outcomes(passed=3)


def test_fault_when_the_test_fails_then_its_card_is_shown(project):
    project.tests(
        SOCKETS
        + """
@pytest.mark.kmem_fault("socket:error=ENOBUFS:when=2")
def test_it(kmem_container):
    assert said(kmem_container) == ["ok", "ok", "ok"]
"""
    )
    project.run().stdout.fnmatch_lines(
        ["*socket by python*: ENOBUFS, *; injected by socket:error=ENOBUFS:when=2"]
    )


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ('kmem_fault("sockt:error=ENOMEM")', ["test_it", "sockt:error=ENOMEM", "did you mean"]),
        ('kmem_fault("socket:error=ENOMEN")', ["test_it", "error=ENOMEN", "ENOMEM"]),
        ('kmem_fault("socket:error=EIO:when=0")', ["test_it", "when=0", "count from 1"]),
        ("kmem_fault(3)", ["test_it", "text"]),
        ("kmem_fault()", ["test_it", "rule"]),
        ('kmem_fault(rule="socket:count", when=3)', ["test_it", "when"]),
        ('kmem_fault("socket:count", container=0)', ["test_it", "container=0", "from 1"]),
        ('kmem_fault("socket:count", container=True)', ["test_it", "container=True"]),
        ("kmem_sweep(maximum=3)", ["test_it", "maximum"]),
        ("kmem_sweep(max=0)", ["test_it", "max=0"]),
        ('kmem_sweep(max="3")', ["test_it", "max='3'"]),
        ('kmem_sweep(calls="sockt")', ["test_it", "sockt"]),
        ('kmem_sweep(modes=("twice",))', ["test_it", "twice"]),
        ("kmem_sweep(exits=1)", ["test_it", "exits=(0, 1)"]),
    ],
)
def test_marker_when_it_cannot_be_used_then_names_test_value_and_rule(project, mark, said):
    project.tests(f"@pytest.mark.{mark}\ndef test_it(kmem_container):\n    pass\n")
    result = project.run_here()
    result.assert_outcomes(errors=1)
    for word in said:
        assert word in result.stdout.str()


def test_sweep_when_the_test_has_no_container_then_says_what_to_add(project):
    project.tests("@pytest.mark.kmem_sweep()\ndef test_it():\n    pass\n")
    assert "add it to the test's arguments" in project.run_here().stdout.str()


SWEPT = """
CODE = '''
import socket, sys
kept = []
for at in range(3):
    try:
        kept.append(socket.socket())
    except OSError:
        if at == %s:
            import os; os.abort()
        sys.exit(3)
'''
@pytest.mark.kmem_sweep(calls="socket", modes="once")
def test_it(kmem_container):
    status = kmem_container([sys.executable, "-I", "-S", "-c", CODE]).wait(timeout=30)
    assert int(status) in (0, 3, 134)
"""


def test_sweep_when_every_run_is_fine_then_each_is_a_subtest(project):
    project.tests(SWEPT % 9)
    result = project.run("-v", "-rA")
    assert result.ret == 0
    text = result.stdout.str()
    if hasattr(pytest, "Subtests"):
        found = re.findall(r"SUBPASSED\[charge \d: socket \(tcp-socket\) by python", text)
        assert len(found) == 3
    else:
        assert len(re.findall(r"^charge \d: socket .* fine$", text, re.MULTILINE)) == 3


def test_sweep_when_a_run_crashes_then_names_the_call_and_a_marker_that_shows_it(project):
    project.tests(SWEPT % 1)
    result = project.run()
    assert result.ret == 1
    text = result.stdout.str()
    assert "crash: socket (tcp-socket) by python" in text
    (line,) = set(re.findall(r"@pytest.mark.kmem_fault\(.*\)", text))
    assert line == '@pytest.mark.kmem_fault("socket:error=ENOMEM:when=2")'
    project.tests(
        (SWEPT % 1)
        .replace('@pytest.mark.kmem_sweep(calls="socket", modes="once")', line)
        .replace("(0, 3, 134)", "(134,)")
    )
    project.run().assert_outcomes(passed=1)


def test_sweep_when_the_body_fails_in_a_run_then_that_is_a_finding(project):
    project.tests((SWEPT % 9).replace("(0, 3, 134)", "(0,)"))
    text = project.run().stdout.str()
    assert "3 charges without a fault; failed in turn: 3 once" in text
    assert "failed: socket (tcp-socket) by python" in text
    assert "in 3 runs: AssertionError" in text


def test_sweep_when_the_test_fails_without_a_fault_then_says_just_that(project):
    project.tests((SWEPT % 9).replace("(0, 3, 134)", "(7,)"))
    assert "without any fault the command fails already" in project.run().stdout.str()


def test_sweep_when_this_pytest_has_no_subtests_then_lines_stand_in_for_them(project):
    project.pytester.makeconftest(
        "import pytest\n"
        "@pytest.fixture\n"
        "def subtests(request):\n"
        "    raise pytest.FixtureLookupError('subtests', request)\n"
    )
    project.tests(SWEPT % 1)
    result = project.run("-rA")
    text = result.stdout.str()
    assert "charge 1: socket (tcp-socket) by" in text
    assert "fine" in text
    assert '@pytest.mark.kmem_fault("socket:error=ENOMEM:when=2")' in text
    result.assert_outcomes(failed=1)
