"""``serve``, ``profile`` and ``report`` on the command line: what they refuse, and how."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engine import cannot_run
from tests.support.peak import until
from tests.support.standing import Standing, command_line, standing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def controller() -> Iterator[Standing]:
    path = Path(tempfile.mkdtemp(prefix="kmem-serve-"))
    with standing(path) as one:
        yield one
    shutil.rmtree(path)


def test_serve_when_a_second_one_is_started_then_says_why_not(controller: Standing) -> None:
    same = command_line("serve", *controller.where)
    assert same.returncode == 2
    assert f"process {controller.process.pid}" in same.stderr
    other_state = command_line(
        "serve", "--socket", str(controller.socket), "--state", f"{controller.state}-2"
    )
    assert other_state.returncode == 2
    assert "another kmem-harness serve listens there" in other_state.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--memcg", "shop=1m"], "no PATH=SIZE"),
        (["--memcg", "/shop=lots"], "lots"),
        (["--events", "/no/such/file"], "'/no/such/file'"),
        (["--socket", "/" + "x" * 120], "shorter path"),
        (["--kernel", "9.9"], "9.9"),
        (["--log-level", "loud"], "loud"),
    ],
)
def test_serve_when_an_option_means_nothing_then_names_it_and_leaves_nothing(
    options: list[str], named: str, tmp_path: Path
) -> None:
    where = ["--socket", str(tmp_path / "s"), "--state", str(tmp_path / "state")]
    outcome = command_line("serve", *where, *options)
    assert outcome.returncode == 2
    assert named in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "give one SIZE"),
        (["1m", "--all", "d"], "give one SIZE"),
        (["8 apples", "--for", "ctr"], "8 apples"),
        (["1m", "--for", "lxc"], "'lxc' is not known"),
        (["1m", "--for", "docker"], "docker:VERSION"),
        (["1m", "--for", "docker:29.0"], "docker 29.0 is not known"),
        (["1m", "--for", "ctr", "--kinds", "tusk"], "tusk"),
        (["1m", "--base", "/no/such/file"], "No such file"),
    ],
)
def test_profile_when_it_cannot_be_made_then_says_why(words: list[str], named: str) -> None:
    outcome = command_line("profile", *words)
    assert outcome.returncode == 2
    assert named in outcome.stderr
    assert not outcome.stdout


def test_profile_when_all_are_asked_for_then_there_is_one_for_each_size(tmp_path: Path) -> None:
    outcome = command_line("profile", "--all", str(tmp_path / "p"), "--for", "podman:5.4")
    assert outcome.returncode == 0, outcome.stderr
    made = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "p").iterdir()}
    assert {"1m", "8m", "1g"} <= made.keys()
    for size, profile in made.items():
        assert json.loads(profile["listenerMetadata"])["limit"] == size
        assert profile["defaultErrnoRet"] == 38  # podman's own


def test_report_when_there_is_none_then_says_where_to_look(controller: Standing) -> None:
    outcome = command_line("report", "abcdef", *controller.where)
    assert outcome.returncode == 2
    assert "no container 'abcdef'" in outcome.stderr


def test_sockets_when_odd_bytes_come_then_nothing_happens_but_a_refusal(
    controller: Standing,
) -> None:
    """What the fuzzers find at length, in short."""
    odd = [b"", b"{", b"null", b'{"pid": 1}', b"[" * 100_000, os.urandom(5000), b"\0" * 64]
    for body in odd * 5:
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.connect(str(controller.socket))
            runtime.sendall(body)
    control = f"{controller.socket}.control"
    for body in odd * 5:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(control)
            client.sendall(body)
    assert command_line("report", "abcdef", *controller.where).returncode == 2
    assert controller.process.poll() is None


def test_units_when_systemd_hands_over_the_socket_then_it_is_used_and_left_there() -> None:
    """What kmem-harness.socket does: the first that comes has the controller started."""
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        cannot_run("systemd-socket-activate is missing: install systemd")
    path = Path(tempfile.mkdtemp(prefix="kmem-serve-"))
    given = path / "given"
    words = ["serve", "--socket", str(given), "--state", str(path / "state"), "--log-json"]
    environment = [f"--setenv={name}={os.environ[name]}" for name in ("PATH",)]
    with subprocess.Popen(
        [activate, "-l", str(given), *environment, sys.executable, "-m", "kmem_harness", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            until(given.exists, 20, "systemd-socket-activate did not listen")
            with socket.socket(socket.AF_UNIX) as runtime:
                runtime.connect(str(given))
                assert service.stderr is not None
                started = next(line for line in service.stderr if "serve.started" in line)
                assert json.loads(started)["socket"] == str(given)
                runtime.sendall(b'{"pid": 1}')
                runtime.shutdown(socket.SHUT_WR)
                assert runtime.recv(1) == b""
        finally:
            service.terminate()
            service.communicate(timeout=20)
    assert service.returncode == 0
    assert given.exists()
    shutil.rmtree(path)


@pytest.mark.parametrize("name", ["kmem-harness.service", "kmem-harness.socket"])
def test_units_when_read_then_name_the_default_places(name: str) -> None:
    text = (Path(__file__).parents[2] / "containers" / name).read_text()
    assert (
        "ListenStream=/run/kmem-harness/serve.sock\n" in text
        or "ExecStart=/usr/bin/env kmem-harness serve" in text
    )
