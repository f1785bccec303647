"""A standing controller, and containers under a static profile: no client of ours is there."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import APIError, NotFound

from kmem_harness.runtimes.default_profiles import version_number
from tests.docker_matrix.images import BUSYBOX
from tests.support.peak import until
from tests.support.standing import Standing, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.usefixtures("images")

#: The bound of 160k of stacks in the profile v4.
_TASKS = 20
_BOUND = f"children={_TASKS} errno=ENOMEM"


@pytest.fixture(scope="module", autouse=True)
def able(engine: Engine) -> None:
    """See that the engine passes a profile's listener on."""
    version = engine.client.version()["Version"]
    if engine.name == "docker" and version_number(version) < (23,):
        pytest.skip(
            f"Docker {version} drops the listenerPath of a profile; the OCI wrapper is for it"
        )


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Give a directory whose path is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="kmem-serve-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def controller(directory: Path) -> Iterator[Standing]:
    with standing(directory, "--keep", "1", "--memcg", "/shop.slice=160k") as one:
        yield one


@pytest.fixture
def run(engine: Engine) -> Iterator[Callable[..., Any]]:
    """Run a container through its engine alone, under a profile."""
    made = []

    def run_one(profile: Path | None, command: list[str], **options: Any) -> Any:
        if profile is not None:
            # docker's command line reads the file itself; podman's service takes its name.
            given = profile if engine.name == "podman" else profile.read_text()
            options["security_opt"] = [f"seccomp={given}"]
        container = engine.client.containers.create(
            BUSYBOX,
            command,
            network_mode="none",
            pids_limit=300,
            **options,
        )
        made.append(container)
        container.start()
        return container

    yield run_one
    for container in made:
        with suppress(NotFound):  # the test has removed it
            container.remove(force=True)


@pytest.fixture(scope="module")
def profile(controller: Standing, engine: Engine) -> Path:
    """Have one made for the engine that is there."""
    return controller.profile("160k", DOCKER_HOST=engine.host)


def test_container_when_run_by_anybody_then_is_bound_to_the_object(
    controller: Standing, profile: Path, run: Callable[..., Any]
) -> None:
    container = run(profile, ["fork_pause", "200"])
    assert container.wait()["StatusCode"] == 0
    assert container.logs().decode().strip() == _BOUND
    report = controller.report(container.id[:12])
    assert report["kinds"]["task"]["live_peak"] == _TASKS
    assert report["memcg"]["kmem"] == {
        "limit": _TASKS * 8192,
        "usage": 0,
        "max_usage": _TASKS * 8192,
        "failcnt": 1,
    }
    assert report["container"]["id"] == container.id
    assert not report["partial"]
    assert controller.until("call.refused", box=container.id[:12])["errno"] == "ENOMEM"


#: io_uring_setup, io_uring_enter, io_uring_register: a ring would make what no call asks for.
_DENIED = {425, 426, 427}


@pytest.mark.parametrize(
    "capabilities",
    [[], pytest.param(["ALL"], marks=pytest.mark.slow)],
    ids=["default", "all-capabilities"],
)
def test_container_when_under_a_profile_then_may_do_what_it_may_without_and_no_more(
    controller: Standing, engine: Engine, run: Callable[..., Any], capabilities: list[str]
) -> None:
    """Every call that the kernel has, with arguments that mean nothing: each gives the same errno."""
    profile = controller.profile("8m", DOCKER_HOST=engine.host)
    found = []
    for given in (None, profile):
        container = run(given, ["every_call"], cap_add=capabilities)
        assert container.wait()["StatusCode"] == 0
        lines = container.logs().decode().splitlines()
        found.append({int(number): int(errno) for number, errno in map(str.split, lines)})
    without, under = found
    assert len(without) > 440
    differ = {number for number in without if without[number] != under[number]}
    assert differ <= _DENIED, {number: (without[number], under[number]) for number in differ}


def test_exec_when_done_by_anybody_then_counts_in_the_same_account(
    controller: Standing, profile: Path, run: Callable[..., Any]
) -> None:
    container = run(profile, ["sleep", "60"])
    for _ in range(2):
        assert container.exec_run(["fork_pause", "200"]).output.decode().strip() == _BOUND
    container.restart(timeout=0)
    assert container.exec_run(["fork_pause", "200"]).output.decode().strip() == _BOUND
    report = controller.report(container.id)
    assert report["container"]["starts"] == 2
    assert report["refusals"]["total"] == 3


@pytest.mark.slow
def test_account_when_its_container_is_removed_then_is_closed_and_its_report_kept(
    controller: Standing, profile: Path, run: Callable[..., Any], engine: Engine
) -> None:
    container = run(profile, ["fork_pause", "200"])
    container.wait()
    if engine.name == "podman":  # Docker takes the bundle of a container away when it ends
        time.sleep(2)  # longer than an account is kept without a container
        assert (controller.state / "open" / f"{container.id}.json").exists()
    assert controller.report(container.id)["container"]["running"] is False
    container.remove()
    said = controller.until("container.closed", container=container.id)
    assert said["refused"] == 1
    assert said["max_usage"] == _TASKS * 8192
    assert controller.report(container.id)["refusals"]["total"] == 1
    assert not (controller.state / "open" / f"{container.id}.json").exists()


@pytest.mark.slow
def test_containers_when_below_one_memcg_then_share_its_limit(
    controller: Standing, engine: Engine, run: Callable[..., Any]
) -> None:
    shared = controller.profile("1m", "--memcg", "/shop.slice", DOCKER_HOST=engine.host)
    first = run(shared, ["sh", "-c", "fork_pause 15 & wait; sleep 60"])
    until(lambda: b"children" in first.logs() or _live(controller, first) >= 15, 30, "no forks")
    second = run(shared, ["fork_pause", "200"])
    second.wait()
    (card,) = controller.report(second.id)["refusals"]["cards"][:1]
    assert card["refused_by"] == "/shop.slice"


def _live(controller: Standing, container: Any) -> int:
    return int(controller.report(container.id)["kinds"]["task"]["live_peak"])


@pytest.mark.parametrize(
    ("options", "changed", "named"),
    [
        pytest.param(
            {"pid_mode": "host"}, ("", ""), "a pid namespace of its own", marks=pytest.mark.slow
        ),
        ({}, ('\\"160k\\"', '\\"8 apples\\"'), "'8 apples'"),
        pytest.param(
            {}, ('\\"calls\\":\\"', '\\"calls\\":\\"x'), "other calls", marks=pytest.mark.slow
        ),
        pytest.param(
            {}, ('\\"machine\\":\\"', '\\"machine\\":\\"x'), "is for x", marks=pytest.mark.slow
        ),
    ],
    ids=["pid-host", "nonsense", "other-calls", "other-machine"],
)
def test_container_when_it_cannot_be_held_then_is_ended_and_the_log_says_why(
    controller: Standing,
    profile: Path,
    run: Callable[..., Any],
    options: dict[str, Any],
    changed: tuple[str, str],
    named: str,
) -> None:
    text = profile.read_text()
    profile = profile.with_name("nonsense.json")
    profile.write_text(text.replace(*changed) if changed[0] else text)
    began = len(controller.events())
    with suppress(APIError):  # where its runtime sees it die on the way
        container = run(profile, ["sh", "-c", "echo it runs"], **options)
        container.wait()
        assert b"it runs" not in container.logs()
    controller.until("container.refused")
    refused = [one for one in controller.events()[began:] if one["event"] == "container.refused"]
    assert named in refused[0]["error"] + str(refused[0].get("remedy"))


def test_controller_when_killed_then_its_containers_end_and_the_next_one_says_so(
    engine: Engine, run: Callable[..., Any]
) -> None:
    path = Path(tempfile.mkdtemp(prefix="kmem-serve-"))
    try:
        one = Standing(path)
        container = run(one.profile("160k", DOCKER_HOST=engine.host), ["sleep", "60"])
        one.until("container.started", container=container.id)
        one.process.kill()
        one.process.wait()
        assert container.wait(timeout=20)["StatusCode"] == 137
        with standing(path) as after:
            lost = after.until("container.lost", container=container.id)
            assert lost["reason"] == "its controller was killed"
            container.start()
            assert container.exec_run(["fork_pause", "200"]).output.decode().strip() == _BOUND
            os.kill(_controller_of(after), 9)
            assert container.wait(timeout=20)["StatusCode"] == 137
            assert after.process.wait(20) == 1
            said = [one["event"] for one in after.events()]
            assert "controller.died" in said
            assert "container.killed" in said
    finally:
        shutil.rmtree(path)


def _controller_of(one: Standing) -> int:
    children = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read_text().split()
    (pid,) = children
    return int(pid)


@pytest.mark.slow
def test_container_when_no_controller_is_there_then_does_not_start(
    profile: Path, run: Callable[..., Any]
) -> None:
    text = profile.read_text().replace('/s"', '/nobody"')
    lonely = profile.with_name("lonely.json")
    lonely.write_text(text)
    with pytest.raises(APIError, match=r"(?i)seccomp"):
        run(lonely, ["true"])
