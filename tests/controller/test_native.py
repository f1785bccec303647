"""Listeners that a container's runtime hands over itself, and what else may come to that socket."""

from __future__ import annotations

import array
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness import ShimError
from kmem_harness.interposer.profile import ALLOW_ALL
from tests.support.engine import cannot_run, without_hybrid_cgroups
from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmem_harness import Harness

STACK = 8192
NUMBERS = itertools.count()
STATE = {"ociVersion": "1.0.2", "fds": ["seccompFd"], "pid": 0, "state": {"status": "creating"}}


class Listening:
    """The account of a container whose runtime shall hand over its listener."""

    def __init__(self, harness: Harness, tasks: int = 5) -> None:
        self.name = f"native-{next(NUMBERS)}"
        self._controller = harness.controller
        harness.memcg(f"/{self.name}", tasks * STACK)
        armed = {"memcg": f"/{self.name}", "isolation": "container", "kinds": harness._kinds()}
        self.ask("arm", **armed, observe=False, lasting=True)
        reply = self.ask("listen_natively", profile=ALLOW_ALL, flags=[])
        self.profile = reply["profile"]
        self.file = Path(reply["file"])
        self.path = self.profile["listenerPath"]

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self._controller.request(op, box=self.name, **fields)

    def report(self) -> dict[str, Any]:
        return dict(self.ask("state")["report"])

    def send(self, body: bytes, *fds: int) -> bytes:
        """Send as a runtime does; give what comes back: nothing, at the end."""
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.settimeout(20)
            runtime.connect(self.path)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            runtime.sendmsg([body], rights)
            runtime.shutdown(socket.SHUT_WR)
            try:
                return runtime.recv(1)
            except ConnectionResetError:
                return b""


@pytest.fixture
def listening(harness: Harness) -> Iterator[Listening]:
    listening = Listening(harness)
    yield listening
    listening.ask("finish", keep=False)
    assert not Path(listening.path).exists()
    assert not listening.file.exists()
    harness.controller.remove(f"/{listening.name}")


@pytest.mark.parametrize(
    ("body", "fds"),
    [
        (json.dumps(STATE).encode(), 0),
        (json.dumps(STATE).encode(), 1),
        (json.dumps(STATE).encode(), 2),
        (b"[]", 1),
        (b"{}", 1),
        (b'{"pid": "x", "state": {"status": "running"}}', 1),
        (b'{"pid": 1, "state": []}', 1),
        (b'{"pid": ', 1),
        (os.urandom(64), 0),
    ],
    ids=["no-fd", "pipe", "two", "list", "empty", "word", "no-status", "half", "noise"],
)
def test_runtimes_socket_when_something_else_comes_then_it_is_dropped_and_the_next_is_heard(
    body: bytes, fds: int, listening: Listening
) -> None:
    ends = os.pipe()
    try:
        for _ in range(2):
            assert listening.send(body, *ends[:fds]) == b""
    finally:
        for end in ends:
            os.close(end)
    listening.file.write_text("for the engine")  # goes with the account
    assert listening.report()["notifications"] == 0


def test_expect_when_the_runtime_handed_over_nothing_then_says_so(listening: Listening) -> None:
    with pytest.raises(ShimError, match="handed over no listener"):
        listening.ask("expect", pid=os.getpid())


def runtime_on(bundle: Path, name: str, *options: str) -> Callable[..., Any]:
    """Make the runtime *name* ready to be run on a *bundle*, whose container is called "box"."""
    if os.geteuid() != 0:  # a skip everywhere: it is for root to make cgroups
        pytest.skip(f"{name} is run as root only")
    program, busybox = shutil.which(name), shutil.which("busybox")
    if program is None or busybox is None:
        cannot_run(f"there is no {name}, or no busybox: install it, and busybox-static")
    (bundle / "root" / "bin").mkdir(parents=True)
    shutil.copy(busybox, bundle / "root" / "bin" / "busybox")
    for applet in ("sh", "sleep"):
        (bundle / "root" / "bin" / applet).symlink_to("busybox")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        with (bundle / "output").open("w") as output:
            command = [*without_hybrid_cgroups(), program, "--root", str(bundle / "state")]
            ended = subprocess.run(
                [*command, *options, *words],
                cwd=bundle,
                stdin=subprocess.DEVNULL,
                stdout=output,  # a pipe would be the container's, too
                stderr=output,
                text=True,
                timeout=30,
                check=False,
            )
        ended.stdout = (bundle / "output").read_text()
        return ended

    made = run("spec")
    assert made.returncode == 0, made.stdout
    return run


def configure(bundle: Path, listening: Listening, script: str, **process: Any) -> None:
    """Have the container of a *bundle* run a *script*, with its listener handed over."""
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["sh", "-c", script], **process}
    spec["root"] = {"path": "root"}
    spec["linux"] |= {"seccomp": listening.profile, "cgroupsPath": f"/kmem-test-{os.getpid()}"}
    (bundle / "config.json").write_text(json.dumps(spec))


@pytest.fixture
def runc(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    run = runtime_on(tmp_path, "runc")
    yield run
    run("delete", "--force", "box")


@pytest.fixture
def crun(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    run = runtime_on(tmp_path, "crun", "--cgroup-manager=disabled")
    yield run
    run("delete", "--force", "box")


def test_runc_when_it_listens_itself_then_the_container_and_every_exec_are_held(
    tmp_path: Path, runc: Callable[..., subprocess.CompletedProcess[str]], listening: Listening
) -> None:
    script = "sleep 99 & sleep 99 & sleep 99 & wait"
    configure(tmp_path, listening, script)
    started = runc("run", "--detach", "box")
    assert started.returncode == 0, started.stdout
    pid = json.loads(runc("state", "box").stdout)["pid"]
    listening.ask("expect", pid=pid)
    until(lambda: listening.report()["kinds"]["task"]["live"] == 3, 10, "there are not 3 tasks")
    # Two of the five are left, for whoever comes, and however.
    assert runc("exec", "--detach", "box", "sh", "-c", script).returncode == 0
    until(lambda: listening.report()["refusals"]["total"], 10, "nothing was refused")
    report = listening.report()
    assert report["memcg"]["kmem"]["usage"] == report["memcg"]["kmem"]["max_usage"] == 5 * STACK
    assert report["refusals"]["total"] == 1
    runc("kill", "box", "KILL")
    until(lambda: listening.report()["kinds"]["task"]["live"] == 0, 10, "a task is left")


def test_expect_when_crun_has_come_and_not_spoken_yet_then_waits_for_it(
    tmp_path: Path, crun: Callable[..., subprocess.CompletedProcess[str]], listening: Listening
) -> None:
    """Under no-new-privileges it sends the listener after the engine has said: started."""
    configure(tmp_path, listening, "sleep 99 & wait", noNewPrivileges=True)
    created = crun("create", "box")
    assert created.returncode == 0, created.stdout
    pid = json.loads(crun("state", "box").stdout)["pid"]
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(listening.ask, "expect", pid=pid)
        with pytest.raises(TimeoutError):
            told.result(0.2)
        assert crun("start", "box").returncode == 0
        told.result(20)
    until(lambda: listening.report()["kinds"]["task"]["live"] == 1, 10, "its task is not seen")


def test_expect_when_crun_goes_without_a_word_then_says_so(
    tmp_path: Path, crun: Callable[..., subprocess.CompletedProcess[str]], listening: Listening
) -> None:
    configure(tmp_path, listening, "sleep 99", noNewPrivileges=True)
    assert crun("create", "box").returncode == 0
    pid = json.loads(crun("state", "box").stdout)["pid"]
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(listening.ask, "expect", pid=pid)
        with pytest.raises(TimeoutError):
            told.result(0.2)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ShimError, match="handed over no listener"):
            told.result(20)
