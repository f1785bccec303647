"""A mistake of ours in one box's service ends that box, says so, and leaves the others alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from kmem_harness import Harness
from kmem_harness.controller.owner import start
from kmem_harness.core.errors import KmemHarnessError
from tests.support.peak import until

PYTHON = [sys.executable, "-I", "-S", "-c"]
VICTIM = """
import os
os.mkdir(f"/tmp/kmem-mistake-{os.getpid()}")
print("went on")
"""
OTHER = """
import os, sys
for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    print("made one", flush=True)
"""
#: What a reader of the target's own words may turn out not to have thought of.
PLANTED = """
import kmem_harness.controller.audit.name_watch as names
def stumble(*_):
    raise RuntimeError("planted")
names.watching = stumble
"""


@pytest.mark.parametrize("isolation", ["user", "none"])
def test_box_when_its_call_makes_the_controller_fail_then_it_alone_ends(
    isolation, monkeypatch, capfd
):
    monkeypatch.setattr(
        start, "_START", start._START.replace("; from", f"; exec({PLANTED!r}); from")
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        Harness("5.10", isolation=isolation) as harness,
        harness.run([*PYTHON, OTHER], kmem_limit="64M", **pipes) as other,
    ):
        with harness.run([*PYTHON, VICTIM], kmem_limit="64M", stdout=subprocess.PIPE) as victim:
            said, _ = victim.communicate(timeout=30)
            status = victim.wait(timeout=30)
        assert (said, status.signal) == (b"", signal.SIGKILL)
        report = victim.report()
        assert report["partial"] == [
            "ended by its controller, which failed at one of its calls: RuntimeError('planted')"
        ]
        assert report["memcg"]["kmem"]["usage"] == 0
        assert not report["controller_died"]
        assert "RuntimeError: planted" in capfd.readouterr().err
        other.running.stdin.write(b"go\n")
        other.running.stdin.flush()
        assert other.running.stdout.readline() == b"made one\n"
        assert other.report()["partial"] == []


#: Where a failure is planted, in what is done for the box of this memcg alone: at which module's name,
#: how that names its memcg, and what that box is and does.
FORKS = """
import os, time
while True:
    try:
        child = os.fork()
    except OSError:
        time.sleep(1)
        continue
    if not child:
        time.sleep(60)
"""
MAKES_A_NAME = VICTIM
WAITS = "import time; time.sleep(60)"
GOES = "pass"
RULE = {"faults": ["mkdir:error=ENOSPC:delay_enter=20ms"]}
EACH = {
    "look": ("audit.descriptors:DescriptorPart.count", "args[0].memcg", WAITS, {}),
    "look at a limit": ("audit.tasks:TaskPart.count", "args[0].memcg", FORKS, {}),
    "proof": ("account.box:Box.prove_tickets", "self.memcg", FORKS, {}),
    "faults": ("audit.user_memory:UserPart.count", "self._memcg", WAITS, {"memory_limit": "64M"}),
    "timer": ("admission.fault_rules:Injection._fail", "args[0].memcg", MAKES_A_NAME, RULE),
    "card": ("account.box:EventFile.write", "args[0].get('memcg')", FORKS, {"events": True}),
    "start": ("lifecycle.boxes:Boxes._begin_audit", "args[0].box.memcg", WAITS, {}),
    "end": ("account.books:Books.close", "self.memcg", GOES, {}),
    "report": ("account.box:Box.report", "self.memcg", GOES, {}),
    "release": ("account.box:Box.release", "self.memcg", GOES, {}),
}
PLANT = """
import importlib
module = importlib.import_module("kmem_harness.controller.{module}")
*outer, name = "{name}".split(".")
place = getattr(module, outer[0]) if outer else module
before = getattr(place, name)
def stumble(*given, **named):
    self, *args = given
    memcg = {memcg}
    if getattr(memcg, "path", memcg) == "/victim":
        raise RuntimeError("planted")
    return before(*given, **named)
setattr(place, name, stumble)
"""


@pytest.mark.parametrize("where", EACH)
def test_box_when_anything_fails_in_its_service_then_the_others_go_on(
    where, monkeypatch, capfd, tmp_path
):
    place, memcg, program, options = EACH[where]
    module, _, name = place.partition(":")
    plant = PLANT.format(module=module, name=name, memcg=memcg)
    monkeypatch.setattr(start, "_START", start._START.replace("; from", f"; exec({plant!r}); from"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ExitStack() as stack:
        harness = stack.enter_context(Harness("5.10"))
        other = stack.enter_context(harness.run([*PYTHON, OTHER], kmem_limit="64M", **pipes))
        if "events" in options:
            options = {"events": stack.enter_context((tmp_path / "e").open("ab")).fileno()}
        path = harness.memcg("/victim")
        try:
            with harness.run([*PYTHON, program], memcg=path, kmem_limit="4M", **options) as victim:
                status = victim.wait(timeout=30)
            assert status == (0 if program is GOES else 128 + signal.SIGKILL)
        except KmemHarnessError as error:
            assert "planted" in str(error) or "controller failed" in str(error)  # noqa: PT017
        assert "RuntimeError: planted" in capfd.readouterr().err
        assert harness.controller.alive
        other.running.stdin.write(b"go\n")
        other.running.stdin.flush()
        assert other.running.stdout.readline() == b"made one\n"
        assert other.report()["partial"] == []
        if where != "end":  # which is what takes back what the box was charged
            until(lambda: path.kmem.usage == 0, 5, "what it was charged stays charged")
