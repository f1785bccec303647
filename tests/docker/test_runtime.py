"""The OCI wrapper on a dockerd of the tests' own, which drops a profile's listener: Debian 12's does."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import docker.errors
import pytest

from tests.docker.conftest import OPTIONS, busybox_image
from tests.docker.own_engine import OwnEngine
from tests.support.peak import until
from tests.support.standing import Standing, command_line, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMAGE = "kmem-runtime-busybox"
FORKS = ["sh", "-c", "i=0; while [ $i -lt 60 ]; do sleep 1 & i=$((i+1)); done; echo made $i"]
LIMITED = {"environment": {"KMEM_HARNESS_LIMIT": "160k"}}
TASKS = 20


@pytest.fixture(scope="module")
def own_engine() -> Iterator[OwnEngine]:
    if os.geteuid() != 0:
        pytest.skip("only root may start a dockerd")
    with OwnEngine() as engine:
        client = engine.client()
        busybox_image(client, IMAGE)
        client.close()
        yield engine


@pytest.fixture(scope="module")
def controller(own_engine: OwnEngine) -> Iterator[Standing]:
    directory = own_engine.directory / "serve"
    directory.mkdir()
    with standing(directory) as one:
        yield one


@pytest.fixture(scope="module")
def options(own_engine: OwnEngine, controller: Standing) -> Iterator[list[str]]:
    """Have the wrapper installed, by the command line."""
    into = own_engine.directory / "lib"
    where = ["--engine", "docker", "--config", str(own_engine.config), "--into", str(into)]
    outcome = command_line("runtime", "install", *where, "--socket", str(controller.socket))
    assert outcome.returncode == 0, outcome.stderr
    assert "systemctl reload docker" in outcome.stdout
    own_engine.signal(signal.SIGHUP)
    client = own_engine.client()
    until(lambda: "kmem-harness" in client.info()["Runtimes"], 20, "dockerd did not look again")
    yield where
    outcome = command_line("runtime", "uninstall", *where)
    assert outcome.returncode == 0, outcome.stderr
    assert not own_engine.config.exists()
    assert not list(into.iterdir())


@pytest.fixture
def run(own_engine: OwnEngine, options: list[str]) -> Iterator[Callable[..., Any]]:
    """Run a container by the wrapper, through docker-py alone."""
    client = own_engine.client()
    made: list[Any] = []

    def run_one(command: list[str], **more: Any) -> Any:
        made.append(
            client.containers.create(IMAGE, command, runtime="kmem-harness", **{**OPTIONS, **more})
        )
        made[-1].start()
        return made[-1]

    yield run_one
    for container in made:
        container.remove(force=True)
    client.close()


def test_container_when_its_environment_names_a_limit_then_is_bound(
    controller: Standing, run: Callable[..., Any]
) -> None:
    container = run(FORKS, **LIMITED)
    container.wait()
    assert b"can't fork" in container.logs()
    report = controller.report(container.id)
    assert report["kinds"]["task"]["live_peak"] == TASKS
    assert report["memcg"]["kmem"]["max_usage"] == TASKS * 8192


@pytest.mark.parametrize(
    "more",
    [
        {"read_only": True, "user": "1000", "cap_drop": ["ALL"]},
        pytest.param({"init": True}, marks=pytest.mark.slow),
        pytest.param({"tty": True, "stdin_open": True}, marks=pytest.mark.slow),
        pytest.param({"security_opt": ["no-new-privileges"]}, marks=pytest.mark.slow),
    ],
    ids=lambda more: next(iter(more)),
)
def test_exec_when_its_container_is_bound_then_counts_over_restarts(
    controller: Standing, run: Callable[..., Any], more: dict[str, Any]
) -> None:
    container = run(["sleep", "60"], **LIMITED, **more)
    for _ in range(2):
        assert b"can't fork" in container.exec_run(FORKS).output
        container.restart(timeout=0)
    report = controller.report(container.id)
    assert report["container"]["starts"] == 3
    assert report["refusals"]["total"] == 2


def test_container_when_it_asks_for_no_limit_then_is_the_engines_own(
    controller: Standing, run: Callable[..., Any]
) -> None:
    container = run(FORKS)
    assert container.wait()["StatusCode"] == 0
    assert b"made 60" in container.logs()
    outcome = command_line("report", container.id, *controller.where)
    assert outcome.returncode == 2


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"environment": {"KMEM_HARNESS_LIMIT": "8 apples"}}, "8 apples"),
        ({"environment": {"KMEM_HARNESS_LIMIT": ""}}, "nothing is limited"),
        ({**LIMITED, "pid_mode": "host"}, "pid namespace of its own"),
    ],
    ids=["nonsense", "empty", "pid-host"],
)
def test_container_when_it_cannot_be_held_then_is_not_created(
    run: Callable[..., Any], more: dict[str, Any], named: str
) -> None:
    with pytest.raises(docker.errors.APIError, match=named) as caught:
        run(["echo", "it runs"], **more)
    assert "kmem-harness: " in str(caught.value.explanation)


def test_container_when_no_controller_is_there_then_is_not_created_but_others_are(
    own_engine: OwnEngine, run: Callable[..., Any]
) -> None:
    program = own_engine.directory / "lib" / "kmem-runtime-docker.conf"
    before = program.read_text()
    program.write_text(before.replace("/serve/", "/nowhere/"))
    try:
        with pytest.raises(docker.errors.APIError, match="start kmem-harness serve"):
            run(["true"], **LIMITED)
        assert run(["true"]).wait()["StatusCode"] == 0
    finally:
        program.write_text(before)


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_install_when_taken_back_then_the_configuration_is_what_it_was(
    engine: str, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    text = (
        json.dumps({"debug": True, "runtimes": {"other": {"path": "/bin/other"}}}, indent=2) + "\n"
    )
    if engine == "docker":
        config.write_text(text)
    words = ["--engine", engine, "--config", str(config), "--into", str(tmp_path / "lib")]
    made = command_line("runtime", "install", *words, "--default", "--runtime", "/bin/true")
    assert made.returncode == 0, made.stderr
    assert "kmem-runtime" in config.read_text()
    if engine == "docker":
        assert json.loads(config.read_text())["default-runtime"] == "kmem-harness"
        assert (tmp_path / "config.before-kmem-harness").read_text() == text
    assert command_line("runtime", "uninstall", *words).returncode == 0
    assert (config.read_text() == text) if engine == "docker" else not config.exists()
    assert not list((tmp_path / "lib").iterdir())


@pytest.mark.parametrize(
    ("text", "words", "named"),
    [
        ("{", [], "cannot be read as JSON"),
        ("[]", [], "no configuration of dockerd's"),
        ("{}", ["--runtime", "no-such-runtime"], "there is no no-such-runtime"),
    ],
)
def test_install_when_it_cannot_be_done_then_says_why_and_changes_nothing(
    tmp_path: Path, text: str, words: list[str], named: str
) -> None:
    config = tmp_path / "daemon.json"
    config.write_text(text)
    where = ["--engine", "docker", "--config", str(config), "--into", str(tmp_path / "lib")]
    outcome = command_line("runtime", "install", *where, *words)
    assert outcome.returncode in (2, 125)
    assert named in outcome.stderr
    assert config.read_text() == text
    assert not (tmp_path / "lib").exists()
