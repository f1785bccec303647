"""The images of ``containers/`` build from local files, do what they say, and end by themselves.

Without the harness: what a limit does to them is tested elsewhere. The engine's own pids limit
holds the bombs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from containers.build import LABEL, NAMES, BuildError, build
from tests.support.engine import PATIENCE_SECONDS, cannot_run, docker_engine, pids_peak
from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine

_CONTAINERS = Path(__file__).parent.parent.parent / "containers"
_PREFIX = "kmem-test-"
_BACKSTOP = 200
#: The other one is tested where it is used, in tests/docker/test_sidecar.py.
_WORKLOADS = [name for name in NAMES if name != "controller"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with docker_engine() as engine:
        try:
            tags = build(engine.client, _WORKLOADS, prefix=_PREFIX)
        except BuildError as error:
            cannot_run(str(error))
        yield engine
        for tag in tags:
            engine.client.images.remove(tag, force=True)


@pytest.fixture
def run(engine: Engine) -> Iterator[Callable[..., Any]]:
    """Start a container of one of the images, without network and with a pids limit."""
    containers = []

    def start(name: str, *words: str, **options: Any) -> Any:
        options.setdefault("pids_limit", _BACKSTOP)
        container = engine.client.containers.run(
            _PREFIX + name, list(words), detach=True, network_mode="none", **options
        )
        containers.append(container)
        return container

    yield start
    for container in containers:
        container.remove(force=True)


def outcome(container: Any) -> dict[str, Any]:
    assert container.wait(timeout=PATIENCE_SECONDS)["StatusCode"] == 0, container.logs()
    return dict(json.loads(container.logs()))


def test_dockerfiles_start_from_nothing_and_every_image_has_one() -> None:
    for directory in _CONTAINERS.iterdir():
        # Units, and a stack for compose, are of no image of their own.
        if directory.is_dir() and directory.name not in {"__pycache__", "compose", "services"}:
            lines = (directory / "Dockerfile").read_text().splitlines()
            assert [line for line in lines if line.startswith("FROM")] == ["FROM scratch"]
            assert not [line for line in lines if line.startswith("RUN")]


def test_build_when_done_then_every_image_is_there_with_its_label(engine: Engine) -> None:
    for name in _WORKLOADS:
        image = engine.client.images.get(_PREFIX + name)
        assert image.labels[LABEL] == _PREFIX + name
        assert image.attrs["Size"] < 5_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fork-bomb", "thread-bomb"])
def test_bomb_when_cap_is_below_the_pids_limit_then_reaches_its_cap_and_ends(
    name: str, run: Callable[..., Any]
) -> None:
    container = run(name, "1", "50")
    assert pids_peak(container, 10) == 50
    assert outcome(container) == {"made": 49, "failed": 0, "first_error": ""}


@pytest.mark.parametrize("name", ["fork-bomb", "thread-bomb"])
def test_bomb_when_pids_limit_is_below_its_cap_then_is_held_by_the_kernel(
    name: str, run: Callable[..., Any]
) -> None:
    container = run(name, "1", "1000", pids_limit=40)
    assert pids_peak(container, 10) == 40
    result = outcome(container)
    assert result["made"] >= 39
    assert result["failed"] > 0
    assert result["first_error"] == "Resource temporarily unavailable"


def test_dentry_bomb_when_over_then_has_removed_what_it_made(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    container = run("dentry-bomb", "1", "300", "/here", volumes={str(tmp_path): {"bind": "/here"}})
    seen = 0

    def ended() -> bool:
        nonlocal seen
        seen = max(seen, len(list(tmp_path.iterdir())))
        container.reload()
        return bool(container.status == "exited")

    until(ended, PATIENCE_SECONDS, "the dentry bomb does not end")
    assert outcome(container) == {"made": 300, "failed": 0, "first_error": ""}
    assert seen == 1
    assert not list(tmp_path.iterdir())


def test_socket_bomb_when_descriptors_are_few_then_says_so(run: Callable[..., Any]) -> None:
    import docker

    few = docker.types.Ulimit(name="nofile", soft=64, hard=64)
    assert outcome(run("socket-bomb", "1", "300")) == {"made": 300, "failed": 0, "first_error": ""}
    held = outcome(run("socket-bomb", "1", "300", ulimits=[few]))
    assert held["made"] == 61
    assert held["first_error"] == "Too many open files"


@pytest.mark.parametrize(
    "name",
    [
        "neighbour",
        *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name.endswith("-bomb")),
    ],
)
def test_program_when_argument_is_no_number_then_status_2_and_names_it(
    name: str, run: Callable[..., Any]
) -> None:
    container = run(name, "soon")
    assert container.wait(timeout=PATIENCE_SECONDS)["StatusCode"] == 2
    assert b"soon is not a number from 1 to" in container.logs()


def test_neighbour_when_asked_at_its_socket_then_answers_for_the_time_since_the_last_question(
    run: Callable[..., Any],
) -> None:
    # Not tmp_path: the address of a socket in it would be too long.
    with tempfile.TemporaryDirectory(prefix="kmem-nb-") as directory:
        Path(directory).chmod(0o755)
        endpoint = Path(directory, "latency")
        inside = f"/run/neighbour/{endpoint.name}"
        container = run(
            "neighbour", "20", "2000", "both", "0", inside,
            volumes={directory: {"bind": "/run/neighbour"}},
        )  # fmt: skip
        until(endpoint.exists, 10, "the neighbour has no socket")
        first = ask(endpoint)
        until(lambda: ask(endpoint)["samples"] > 0, 10, "the neighbour serves nobody")
        status, line = container.exec_run(["/neighbour", "ask", inside])
        assert status == 0
        assert json.loads(line).keys() == first.keys()
        container.stop(timeout=10)
        last = outcome(container)
        assert not endpoint.exists()
    assert last["failures"] == 0
    assert last["samples"] >= 1
    assert 0 < last["p50_us"] <= last["p99_us"] <= last["max_us"]


def ask(endpoint: Path) -> dict[str, int]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(endpoint))
        return dict(json.loads(connection.makefile().read()))


def test_busybox_when_run_then_has_a_shell_and_its_applets(run: Callable[..., Any]) -> None:
    container = run("busybox", "sh", "-c", "seq 3 | wc -l; ls -d /tmp; id -u", user="1000")
    assert container.wait(timeout=PATIENCE_SECONDS)["StatusCode"] == 0
    assert container.logs() == b"3\n/tmp\n1000\n"


def test_build_script_when_run_as_a_program_then_prints_the_tags(engine: Engine) -> None:
    script = [sys.executable, str(_CONTAINERS / "build.py"), "--prefix", "kmem-script-"]
    environment = {**os.environ, "DOCKER_HOST": engine.host}
    made = subprocess.run(
        [*script, "fork-bomb"], env=environment, capture_output=True, text=True, check=True
    )
    assert made.stdout == "kmem-script-fork-bomb\n"
    subprocess.run([*script, "--remove", "fork-bomb"], env=environment, check=True)
    assert not engine.client.images.list("kmem-script-fork-bomb")


@pytest.mark.parametrize(
    ("name", "host", "said"),
    [
        (
            "no-such-bomb",
            None,
            "no image 'no-such-bomb'; known are busybox, controller, dentry-bomb",
        ),
        ("fork-bomb", "unix:///tmp/no-such-engine.sock", "unix:///tmp/no-such-engine.sock"),
    ],
)
def test_build_script_when_it_cannot_then_says_why(
    name: str, host: str | None, said: str, engine: Engine
) -> None:
    outcome = subprocess.run(
        [sys.executable, str(_CONTAINERS / "build.py"), name],
        env={**os.environ, "DOCKER_HOST": host or engine.host},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 1
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
