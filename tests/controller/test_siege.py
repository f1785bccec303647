"""The controller under attack or in need: it answers, grows no further, and keeps nobody waiting."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmem_harness.controller.door.server import MAX_CLIENTS
from kmem_harness.procfs.file_systems import FileSystems
from tests.controller.raw import Raw, connect
from tests.harness.forker import TASK, Forker
from tests.support.descriptors import nr_descriptors
from tests.support.peak import until

if TYPE_CHECKING:
    from kmem_harness import Harness


def test_clients_when_thousands_are_silent_then_others_are_answered_at_once(harness):
    silent = []
    controller = harness.controller.pid
    before = nr_descriptors(controller)
    try:
        with Raw(harness) as known:
            known.ask({"op": "hello"})
            for _ in range(1000):
                silent.append(connect(harness))  # room is made by ending those before
                if len(silent) >= 300:
                    silent.pop(0).close()
            began = time.monotonic()
            with Raw(harness) as control:
                assert control.ask({"op": "hello"})["ok"]
            with harness.run(["true"], kmem_limit="1M") as box:
                assert box.wait(timeout=30) == 0
            assert time.monotonic() - began < 5
            assert nr_descriptors(controller) <= before + MAX_CLIENTS + 8
            assert known.ask({"op": "hello"})["ok"]  # who asked before is not ended for the silent
    finally:
        for one in silent:
            one.close()
    until(lambda: nr_descriptors(controller) <= before, 10, "descriptors are left")


def test_clients_when_all_places_are_taken_by_those_who_ask_then_one_more_is_refused(harness):
    asking = []
    try:
        for _ in range(MAX_CLIENTS):
            asking.append(Raw(harness))
            assert asking[-1].ask({"op": "hello"})["ok"]
        with Raw(harness) as late:
            assert "clients are connected" in late.receive()["error"]["message"]
        assert asking[0].ask({"op": "hello"})["ok"]
    finally:
        for one in asking:
            one.socket.close()


def test_controller_when_descriptors_run_out_then_says_so_and_running_boxes_hold(harness):
    """A census that could open nothing would have counted nothing, and let everything pass."""
    controller = harness.controller.pid
    before = resource.prlimit(controller, resource.RLIMIT_NOFILE)
    with Forker(harness, kmem_limit=9 * TASK) as forker:
        assert forker.fork(3) == (3, None)
        most = nr_descriptors(controller) + 16
        resource.prlimit(controller, resource.RLIMIT_NOFILE, (most, before[1]))
        try:
            with Raw(harness) as late:
                assert "hardly a descriptor left" in late.receive()["error"]["message"]
            with pytest.raises(ValueError, match="hardly a descriptor is left"):
                harness.run(["true"], kmem_limit="1M")
            assert forker.fork(20) == (6, "ENOMEM")
        finally:
            resource.prlimit(controller, resource.RLIMIT_NOFILE, before)
        forker.finish()


def lost_of_five(harness: Harness, events: int) -> int:
    """Have five calls refused, and say how many of the events were lost."""
    with Forker(harness, kmem_limit=2 * TASK, events=events) as forker:
        assert forker.fork(2) == (2, None)
        assert [forker.fork(1) for _ in range(5)] == [(0, "ENOMEM")] * 5
        report = forker.box.report()
        forker.finish()
    assert report["refusals"]["total"] == 5
    return int(report["events_lost"])


def test_event_pipe_when_nobody_reads_then_events_are_lost_and_no_call_waits(harness):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b"x" * 4096):
            pass
    os.set_blocking(writing, True)  # as it comes from whoever opened it
    assert lost_of_five(harness, writing) == 5
    assert os.get_blocking(writing)  # it is the owner's, too
    os.close(reading)
    os.close(writing)


def test_event_pipe_when_its_reader_is_gone_then_events_are_lost_and_no_call_waits(harness):
    reading, writing = os.pipe()
    os.close(reading)
    assert lost_of_five(harness, writing) == 5
    os.close(writing)


def test_events_when_given_a_socket_then_are_refused_with_the_reason(harness):
    one, other = socket.socketpair()
    with one, other, pytest.raises(ValueError, match="events go to a file"):
        harness.run(["true"], kmem_limit="1M", events=one.fileno())


def test_controller_when_stopped_then_calls_wait_and_go_on_with_it(harness):
    controller = harness.controller.pid
    with harness.run(
        ["sh", "-c", "read go; (:); echo done"],
        kmem_limit="1M",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as box:
        os.kill(controller, signal.SIGSTOP)
        try:
            box.running.stdin.write(b"go\n")
            box.running.stdin.close()
            with pytest.raises(TimeoutError):
                box.running.wait(timeout=0.3)
        finally:
            os.kill(controller, signal.SIGCONT)
        assert box.running.stdout.readline() == b"done\n"
        assert box.wait(timeout=30) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look at every process")
def test_controller_when_an_ordinary_user_would_look_into_it_then_may_not(harness):
    for file in ("mem", "environ", "maps"):
        with pytest.raises(PermissionError):
            Path(f"/proc/{harness.controller.pid}/{file}").read_bytes()


_MOUNTER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
uid, gid = os.geteuid(), os.getegid()
if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
    sys.exit("unshare")
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
open("/proc/self/gid_map", "w").write(f"0 {gid} 1")
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
if libc.mount(b"nobody", sys.argv[1].encode(), b"fuse", 0, options.encode()):
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
sys.stdin.read()
"""


def test_file_systems_when_one_is_served_by_a_process_then_nobody_waits_for_it():
    """A box can mount one, and never answer: to ask how much it holds would end all answers."""
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(
            [sys.executable, "-c", _MOUNTER, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        if process.stdout.readline() != b"mounted\n":
            process.stdin.close()
            pytest.skip(f"no FUSE in a user namespace: {process.stderr.read().decode()}")
        systems = FileSystems(process.pid)
        systems.used()
        assert "fuse" in systems.silent
        systems.close()
        process.kill()


def test_boxes_when_hundreds_come_and_go_then_the_controller_keeps_nothing_of_them(harness):
    """Each left 46 kB behind once, until a collector of garbage came round."""

    def let_pass(number: int) -> int:
        for _ in range(number):
            with harness.run(["true"], memcg="/passing", kmem_limit="1M") as box:
                assert box.wait(timeout=30) == 0
        status = Path(f"/proc/{harness.controller.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    before = let_pass(50)
    assert let_pass(100) - before < 512  # kB
