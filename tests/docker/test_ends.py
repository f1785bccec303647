"""Whatever dies, no container is left; what cannot work says why, and what to do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import kmem_harness.docker
from kmem_harness import Harness
from kmem_harness.core.errors import UnsupportedHostError
from tests.docker.conftest import OPTIONS, containers
from tests.support.peak import descendants, until

ROOT = Path(__file__).parents[2]


def cli(*words, **popen):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "kmem_harness", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **popen,
    )


def controller_of(pid):
    for one in descendants(pid):
        if b"kmem_harness.controller" in Path(f"/proc/{one}/cmdline").read_bytes():
            return one
    return None


@pytest.mark.parametrize(
    ("who", "number", "status"),
    [
        ("cli", signal.SIGKILL, -9),
        ("controller", signal.SIGKILL, 125),
        ("cli", signal.SIGINT, 130),
        ("cli", signal.SIGTERM, 0),
    ],
    ids=str,
)
def test_run_when_a_part_is_killed_then_no_container_is_left(
    who, number, status, engine, usable, image
):
    before = containers(engine)
    # The pause: until the command line, too, has gone on to wait for it. No fork after "up": a
    # signal that comes before we have seen it fails it with EINTR, as the guide says.
    script = "trap 'exit 0' TERM; sleep 100 & sleep 0.5; echo up; wait"
    process = cli("run", "--image", image, "--kmem-limit", "1M", "--", "sh", "-c", script)
    assert process.stdout.readline() == "up\n"
    until(lambda: controller_of(process.pid), 20, "no controller came up")
    os.kill(process.pid if who == "cli" else controller_of(process.pid), number)
    assert process.wait(timeout=30) == status
    process.communicate()
    until(lambda: containers(engine) == before, 20, "a container is left")


def test_start_when_an_owner_left_a_container_then_sweeps_it(engine, usable, image):
    owner = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import signal, sys; from kmem_harness import Harness; harness = Harness();"  # noqa: ISC004 - one program
            "harness.run(['sleep', '9'], image=sys.argv[1], kmem_limit='1M', network_mode='none');"
            "print(harness.controller.pid, harness.controller.directory, flush=True); signal.pause()",
            image,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    before = containers(engine)
    pid, directory = owner.stdout.readline().split()
    controller = int(pid)
    (left,) = containers(engine) - before
    os.kill(controller, signal.SIGSTOP)  # so that it cannot do anything about its owner's death
    owner.kill()
    owner.wait()
    os.kill(controller, signal.SIGKILL)
    with Harness() as harness:
        harness.run(["true"], image=image, **OPTIONS).close()
    assert left not in containers(engine)
    shutil.rmtree(directory)  # what stays where both die at once, as the guide says


def test_command_line_when_run_in_a_container_then_streams_and_status_are_the_commands(
    usable, image
):
    words = ("sh", "-c", "cat; echo err >&2; exit 3")
    process = cli("run", "--image", image, "--kmem-limit", "1M", "--quiet", "--", *words)
    assert process.communicate(timeout=60) == ("", "err\n")
    assert process.returncode == 3


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("tcp://192.0.2.1:2375", "reached over a network"),
        ("ssh://somebody@192.0.2.1", "reached over a network"),
        ("unix:///no/such/socket", "there is no such socket"),
    ],
)
def test_engine_when_it_cannot_be_used_then_says_why_and_that_local_needs_none(
    host, named, monkeypatch
):
    monkeypatch.setenv("DOCKER_HOST", host)
    with Harness() as harness, pytest.raises(UnsupportedHostError, match=named) as caught:
        harness.run(["true"], image="any", kmem_limit="1M")
    assert "--runtime local" in caught.value.remedy
    with pytest.raises(UnsupportedHostError, match=named):
        kmem_harness.docker.from_env()


def test_engine_when_nothing_listens_then_says_how_to_start_it(tmp_path, monkeypatch):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with Harness() as harness, pytest.raises(UnsupportedHostError, match="nothing listens") as why:
        harness.run(["true"], image="any", kmem_limit="1M")
    assert "dockerd" in why.value.remedy


def test_engine_when_this_user_may_not_use_its_socket_then_says_whom_to_become():
    """As an ordinary user, for root may use any: a child that gives up what it is."""
    script = (
        "import os, sys\n"
        "import docker, requests\n"
        "from kmem_harness.core.errors import UnsupportedHostError\n"
        "from kmem_harness.runtimes.engine import readable_errors\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    with readable_errors(sys.argv[1]):\n"
        "        docker.DockerClient(base_url=f'unix://{sys.argv[1]}').version()\n"
        "except UnsupportedHostError as error:\n"
        "    print(error, error.remedy, sep='; ')\n"
    )
    # Not pytest's directory, which no other user may enter.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        Path(folder).chmod(0o711)
        path = Path(folder, "s")
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "this user may not use it" in done.stdout, done.stderr
    assert "join the group that owns the socket" in done.stdout
