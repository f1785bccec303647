"""A box's listener is taken from its shim and from nobody else, whatever knocks meanwhile."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kmem_harness import ShimError
from kmem_harness.runtimes.local import SHIM
from kmem_harness.runtimes.spec import BoxSpec
from tests.controller.raw import Raw
from tests.support.descriptors import nr_descriptors
from tests.support.peak import until

FORGER = Path(__file__).with_name("forger.py")
NUMBERS = itertools.count()


class Announced:
    """A box of which the announced init is a forger."""

    def __init__(self, harness, *, expected=True):
        self.harness = harness
        self.name = f"forged-{next(NUMBERS)}"
        harness.memcg(f"/{self.name}", "1M")
        armed = harness.controller.request(
            "arm",
            box=self.name,
            memcg=f"/{self.name}",
            observe=False,
            isolation="none",
            kinds=harness._kinds(),
        )
        self.path = armed["socket"]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(FORGER), self.path, SHIM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.control = Raw(harness)
        if expected:
            self.expect()

    def expect(self):
        # Answered only once the box is under a filter: not waited for.
        self.control.send({"op": "expect", "box": self.name, "pid": self.process.pid})
        until(lambda: self.process.pid in self.inits(), 5, "it was not announced")

    def inits(self):
        return [box["init_pid"] for box in self.harness.controller.request("boxes")["boxes"]]

    def tell(self, order):
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def state(self):
        return self.harness.controller.request("state", box=self.name)

    @property
    def rejected(self):
        return self.state()["rejected_handshakes"]

    def close(self):
        self.control.socket.close()
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.harness.controller.request("finish", box=self.name)
        self.harness.controller.remove(f"/{self.name}")


@pytest.fixture
def announced(harness):
    announced = Announced(harness)
    yield announced
    announced.close()


@pytest.mark.parametrize(
    "forgery",
    [
        *("pipe", "socket", "none", "two", "ten", "garbage", "wrong-magic", "half", "long"),
        *("failure-with-fd", "hang-up"),
    ],
)
def test_forgery_when_from_the_announced_process_then_is_rejected_and_a_shim_still_welcome(
    forgery, announced
):
    controller = announced.harness.controller.pid
    before = nr_descriptors(controller)
    assert announced.tell(forgery) == "closed"
    if forgery != "hang-up":
        assert announced.rejected == 1
    assert announced.state()["filter_flags"] == 0
    until(lambda: nr_descriptors(controller) == before, 5, "descriptors are left")
    assert announced.tell("shim true") == "0"
    assert announced.state()["filter_flags"]
    assert announced.control.receive()["ok"]


def test_socket_when_a_listener_was_taken_then_is_gone(announced):
    assert announced.tell("shim true") == "0"
    assert not Path(announced.path).exists()
    assert announced.tell("dial") == "FileNotFoundError"


def test_peer_when_not_the_announced_process_then_is_told_nothing(announced):
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(20)
            peer.connect(announced.path)
            assert peer.recv(1) == b""
    assert announced.rejected == 3
    # A real shim, but started by somebody else.
    outcome = subprocess.run(
        [SHIM, announced.path, "true"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 125
    assert outcome.stderr.startswith("kmem-shim: read filter: ")
    assert announced.tell("shim true") == "0"


def test_peer_when_it_speaks_before_anyone_is_announced_then_is_not_heard(harness):
    announced = Announced(harness, expected=False)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(20)
            peer.connect(announced.path)
            peer.send(b"x" * 32)
            announced.expect()
            with pytest.raises(ConnectionResetError):  # what it said was never read
                peer.recv(1)
        assert announced.tell("shim true") == "0"
    finally:
        announced.close()


def test_silent_peers_when_from_the_announced_process_then_its_shim_is_served(announced):
    assert announced.tell("silent 100") == "kept"
    began = time.monotonic()
    assert announced.tell("shim true") == "0"
    assert time.monotonic() - began < 1


def test_silent_peers_when_two_hundred_knock_then_a_real_start_is_hardly_delayed(harness):
    name = "besieged"
    memcg = harness.memcg(f"/{name}", "1M")
    armed = harness.controller.request(
        "arm",
        box=name,
        memcg=memcg.path,
        observe=False,
        isolation=harness.isolation,
        kinds=harness._kinds(),
    )
    silent = []

    def knock():
        with suppress(OSError):  # once it is taken, the socket is gone
            for _ in range(200):
                peer = socket.socket(socket.AF_UNIX)
                silent.append(peer)
                peer.connect(armed["socket"])  # waits once the queue is full

    meanwhile = threading.Thread(target=knock)
    meanwhile.start()
    until(lambda: len(silent) > 50, 5, "nobody knocks")
    began = time.monotonic()
    running = harness.runtime("local").start(BoxSpec(name=name, command=("true",)), armed["socket"])
    harness.controller.request("expect", box=name, pid=running.init_pid)
    assert running.wait(timeout=20) == 0
    assert time.monotonic() - began < 1
    meanwhile.join(20)
    for peer in silent:
        peer.close()
    assert harness.controller.request("finish", box=name)["filter_flags"]
    memcg.remove()


def test_expect_when_said_twice_then_is_an_error(announced):
    with Raw(announced.harness) as control:
        reply = control.ask({"op": "expect", "box": announced.name, "pid": 1})
    assert reply["error"]["type"] == "ConfigurationError"
    assert "has its init already" in reply["error"]["message"]


@pytest.mark.slow
def test_expect_when_the_shim_gets_no_further_then_is_told_so_in_time(announced):
    """A shim that somebody had stopped kept its owner waiting for ever."""
    assert announced.tell("silent 1") == "kept"
    reply = announced.control.receive()
    assert reply["error"]["type"] == "ShimError"
    assert "has not handed over its listener for 10 s" in reply["error"]["message"]


def test_expect_when_init_dies_before_its_shim_was_heard_then_is_told_so(announced):
    announced.process.kill()
    reply = announced.control.receive()
    assert reply["error"]["type"] == "ShimError"
    assert "ended before its command was started" in reply["error"]["message"]


def test_run_when_the_shim_cannot_connect_then_says_so_and_leaves_nothing(harness, tmp_path):
    request = harness.controller.request

    def forget_the_socket(op, fds=(), **fields):
        reply = request(op, fds, **fields)
        if op == "arm":
            Path(reply["socket"]).unlink()
        return reply

    harness.controller.request = forget_the_socket
    try:
        with pytest.raises(ShimError, match="ended before its command was started"):
            harness.run(["touch", str(tmp_path / "started")], kmem_limit="1M")
    finally:
        del harness.controller.request
    assert not (tmp_path / "started").exists()
    assert harness.controller.children("/local") == []
    assert request("boxes")["boxes"] == []
