"""A controller on the engine's own host, for clients that can reach nothing but the engine.

The client runs in namespaces of its own, where it sees neither the engine's processes nor the
directory that the controller shares with the engine's host.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from containers.build import BuildError, build
from kmem_harness import Harness
from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from tests.docker.conftest import OPTIONS, STACK, containers
from tests.support.engine import cannot_run
from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

ROOT = Path(__file__).parents[2]
APART = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
HIDE = 'mount -t tmpfs none "$0" && exec "$@"'
SLEEPERS = "sleep 99 & sleep 99 & sleep 99 & wait"


class Sidecar:
    """The controller's container, and the directory that it shares with the engine's host."""

    def __init__(self, engine: Engine, tag: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kmem-side-"))
        path = self.directory / "listen.sock"
        mounts = [f"{self.directory}:{self.directory}"]
        mounts.append(f"{engine.host.removeprefix('unix://')}:/var/run/docker.sock")
        self.container = engine.client.containers.run(
            tag,
            ["--listen", str(path), "/var/run/docker.sock"],
            pid_mode="host",
            network_mode="none",
            volumes=mounts,
            detach=True,
        )
        until(path.exists, 30, "nobody listens")
        self.address = f"docker://{self.container.name}{path}"

    def sessions(self) -> list[str]:
        return [one.name for one in self.directory.iterdir() if one.is_dir()]

    def client(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        return client(self.directory, script, self.address, *arguments)


def client(hidden: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program that can reach the engine's socket, and nothing else of it."""
    if os.geteuid() != 0:  # a skip everywhere: it is for root to make namespaces without users
        pytest.skip("only root can hide the engine's processes from a client")
    return subprocess.Popen(
        [*APART, "sh", "-c", HIDE, str(hidden), sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def sidecar(engine: Engine, image: str) -> Iterator[Sidecar]:
    try:
        (tag,) = build(engine.client, ["controller"], prefix=f"kmem-test-{os.getpid()}-")
    except BuildError as error:
        cannot_run(str(error))
    sidecar = Sidecar(engine, tag)
    yield sidecar
    sidecar.container.stop(timeout=10)
    assert list(sidecar.directory.iterdir()) == []
    sidecar.container.remove(force=True)
    shutil.rmtree(sidecar.directory)
    engine.client.images.remove(tag, force=True)


@pytest.mark.slow
def test_client_when_it_sees_the_engine_alone_then_its_containers_are_held_all_the_same(
    sidecar: Sidecar, engine: Engine, image: str
) -> None:
    before = containers(engine)
    script = """
import json, sys
from kmem_harness import Harness
address, image, script, options = sys.argv[1:]
with Harness("v4", controller=address) as harness:
    options = {"image": image, "kmem_limit": 3 * 8192, **json.loads(options)}
    held = harness.run(["sh", "-c", script], **options)
    exec_status = held.exec(["sh", "-c", script]).exit_code
    full = held.report()
    held.restart(grace=0)
    held.exec(["true"])
    ended = harness.run(["sh", "-c", f"sleep 99 & {script}"], **options)
    status = ended.wait(timeout=30)
    held.kill()
    print(json.dumps([exec_status, full, status, held.status.signal, held.report(), ended.report()]))
"""
    process = sidecar.client(script, image, SLEEPERS, json.dumps(OPTIONS))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    exec_status, full, status, signal, held, ended = json.loads(output)
    assert exec_status == 2
    assert full["memcg"]["kmem"]["usage"] == full["memcg"]["kmem"]["max_usage"] == 3 * STACK
    assert full["refusals"]["first"]["errno"] == "ENOMEM"
    assert full["breaches"] == held["breaches"] == []
    assert (status, signal) == (2, 9)
    assert ended["memcg"]["kmem"]["max_usage"] == 3 * STACK
    assert held["memcg"]["kmem"]["usage"] == ended["memcg"]["kmem"]["usage"] == 0
    assert containers(engine) == before
    until(lambda: not sidecar.sessions(), 10, "the session is left")


@pytest.mark.slow
def test_client_when_it_is_killed_then_nothing_of_its_session_is_left(
    sidecar: Sidecar, engine: Engine, image: str
) -> None:
    before = containers(engine)
    script = """
import json, signal, sys
from kmem_harness import Harness
harness = Harness("v4", controller=sys.argv[1])
harness.run(["sleep", "99"], image=sys.argv[2], kmem_limit="1M", **json.loads(sys.argv[3]))
print("up", flush=True)
signal.pause()
"""
    process = sidecar.client(script, image, json.dumps(OPTIONS))
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert len(containers(engine) - before) == 1
    process.kill()
    process.communicate(timeout=20)
    until(lambda: containers(engine) == before, 20, "a container is left")
    until(lambda: not sidecar.sessions(), 10, "the session is left")


def test_client_when_it_sees_the_engine_alone_and_names_no_controller_then_is_told_of_it(
    image: str, tmp_path: Path
) -> None:
    script = """
import sys
from kmem_harness import Harness
from kmem_harness.core.errors import UnsupportedHostError
with Harness() as harness:
    try:
        harness.run(["true"], image=sys.argv[1], kmem_limit="1M", network_mode="none")
    except UnsupportedHostError as error:
        print(error, error.remedy)
"""
    output, _ = client(tmp_path, script, image).communicate(timeout=60)
    assert "outside of our pid namespace" in output
    assert "containers/build.py controller" in output


@pytest.mark.parametrize(
    ("address", "error", "named"),
    [
        ("kmem-controller", ConfigurationError, "docker://NAME"),
        ("docker://", ConfigurationError, "docker://NAME"),
        ("docker://no-such-container", UnsupportedHostError, "No such container"),
    ],
)
def test_harness_when_its_controller_cannot_be_had_then_says_why(
    address: str, error: Any, named: str, engine: Engine
) -> None:
    with pytest.raises(error, match=named):
        Harness(controller=address)


@pytest.mark.slow
def test_harness_when_its_controller_is_elsewhere_then_has_no_local_boxes(sidecar: Sidecar) -> None:
    with Harness(controller=sidecar.address) as harness:
        with pytest.raises(UnsupportedHostError, match="boxes of this machine"):
            harness.run(["true"], kmem_limit="1M")
        with pytest.raises(ConfigurationError, match="events"):
            harness.controller.request("hello", (0,))
    with pytest.raises(ConfigurationError, match=r"4\.4"):
        Harness("4.4", controller=sidecar.address)
