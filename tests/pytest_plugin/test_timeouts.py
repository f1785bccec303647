"""Containers that run too long are ended and fail their test, but not while somebody debugs."""

from __future__ import annotations

import threading

from kmem_harness.pytest_plugin.deadlines import Deadline, pause_all, resume_all

_SOON = 0.03
_SURELY = 10.0

#: A debugger that takes its time, looks whether the containers live, and goes on.
PATIENT = """
import pdb, threading

class Patient(pdb.Pdb):
    def cmdloop(self, intro=None):
        threading.Event().wait(0.6)
        box = self.curframe.f_locals["box"]
        print("alive after a while:", box.status is None)
        self.onecmd("continue")
"""


def test_deadline_when_paused_then_waits_until_it_is_resumed():
    over = threading.Event()
    deadline = Deadline(_SOON, over.set)
    pause_all()
    assert not over.wait(5 * _SOON)
    resume_all()
    assert over.wait(_SURELY)
    deadline.cancel()


def test_deadline_when_cancelled_then_never_comes():
    over = threading.Event()
    Deadline(_SOON, over.set).cancel()
    resume_all()
    assert not over.wait(5 * _SOON)


def test_container_when_in_a_debugger_then_its_clock_stands_still(project):
    project.pytester.makepyfile(patient=PATIENT)
    project.tests("""
import pathlib

def test_debugged(kmem_container):
    box = kmem_container(["sleep", "1000"], timeout=0.3)
    breakpoint()
    alive = pathlib.Path(f"/proc/{box.running.init_pid}").exists()
    assert box.wait(timeout=30) == 137
    print("alive on return:", alive)

def test_failing(kmem_container):
    box = kmem_container(["sleep", "1000"], timeout=0.3)
    assert False
""")
    result = project.run("--pdb", "--pdbcls=patient:Patient", "-s")
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    assert text.count("alive after a while: True") >= 2
    assert "alive on return: True" in text
    assert "was ended: it still ran after its timeout of 0.3 s" in text


def test_timeout_when_given_in_several_places_then_the_nearest_holds(project):
    project.ini("kmem_timeout = 1000")
    project.tests("""
def test_option(kmem_container):
    assert kmem_container(["sleep", "1000"]).wait(timeout=30) == 137

def test_call(kmem_container):
    assert kmem_container(["sh", "-c", "sleep 0.5"], timeout=1000).wait(timeout=30) == 0

def test_in_words(kmem_container):
    assert kmem_container(["sh", "-c", "sleep 0.2"], timeout="1min").wait(timeout=30) == 0
    assert kmem_container(["sh", "-c", "sleep 0.2"], timeout=0).wait(timeout=30) == 0
    with pytest.raises(ValueError, match="timeout: 'soon' is not a time"):
        kmem_container(["true"], timeout="soon")
""")
    result = project.run_here("--kmem-timeout=50ms", "-v")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*::test_option FAILED (kmem)*", "*::test_call PASSED*"])
