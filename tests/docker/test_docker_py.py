"""docker-py's own calls, with ``kernel_memory`` meaning something again."""

from __future__ import annotations

import traceback

import docker
import pytest
from docker.errors import ContainerError, ImageNotFound
from docker.models.containers import Container

import kmem_harness.docker
from kmem_harness.core.errors import ConfigurationError
from tests.docker.conftest import OPTIONS, containers
from tests.support.peak import until

#: A bomb, beside a first process that outlives it.
BOMB = ["sh", "-c", "(b(){ b|b& };b) 2>/dev/null & exec sleep 60"]
MIB = 1 << 20


@pytest.fixture
def client(engine, usable):
    client = kmem_harness.docker.from_env()
    yield client
    client.close()


def test_run_when_detached_then_contains_a_bomb(client, image):
    container = client.containers.run(image, BOMB, kernel_memory="4m", detach=True, **OPTIONS)
    assert isinstance(container, Container)
    until(lambda: container.kmem.refusals, 30, "the bomb met no limit")
    container.kill()
    assert container.wait()["StatusCode"] == 137
    report = container.kmem.report()
    assert report["refusals"]["total"] > 0
    assert report["memcg"]["kmem"]["limit"] == 4 * MIB
    assert report["memcg"]["kmem"]["max_usage"] <= 4 * MIB
    assert report["exit_code"] == 137
    container.remove()
    assert container.kmem is None


def test_run_when_attached_then_gives_what_docker_py_gives(client, image, tmp_path):
    (tmp_path / "file").write_text("from a volume")
    tmp_path.chmod(0o755)
    options = {**OPTIONS, "kernel_memory": "8m", "user": "1000", "stderr": True, "remove": True}
    options["volumes"] = {str(tmp_path): {"bind": "/data", "mode": "ro"}}
    run = client.containers.run
    assert run(image, "cat /data/file", **options) == b"from a volume"
    assert run(image, "-u", entrypoint="id", **options) == b"1000\n"
    assert run(image, environment={"A": "b"}, **options) == b"own command\n"
    assert run(image, ["sh", "-c", "pwd"], working_dir="/data", **options) == b"/data\n"
    with pytest.raises(ContainerError) as caught:
        run(image, ["sh", "-c", "exit 3"], **options)
    assert caught.value.exit_status == 3


def test_run_when_kernel_memory_is_not_asked_for_then_gives_what_docker_py_gives(client, image):
    # Detached: what docker-py gives of a short command it is attached to may be nothing.
    container = client.containers.run(image, ["id", "-u"], user="1000", detach=True, **OPTIONS)
    assert container.wait()["StatusCode"] == 0
    assert container.logs() == b"1000\n"
    assert container.kmem is None
    container.remove()


@pytest.mark.parametrize("removed", [False, True], ids=["kept", "removed"])
def test_logs_when_followed_to_the_end_then_are_whole(client, image, removed):
    """A log followed from the moment the container ends comes incomplete from the engine.

    Of ours two in three, so that four in a row tell.
    """
    for _ in range(4):
        container = client.containers.run(
            image, ["echo", "all of it"], kernel_memory="8m", detach=True, **OPTIONS
        )
        log = container.logs(stream=True)
        container.wait()
        if removed:
            container.remove()
        assert b"".join(log) == b"all of it\n"
        if not removed:
            container.remove()


def test_logs_when_followed_without_a_stream_then_are_whole(client, image):
    container = client.containers.run(
        image, ["sh", "-c", "echo out; echo err >&2"], kernel_memory="8m", detach=True, **OPTIONS
    )
    assert container.logs(stdout=True, stderr=False, follow=True) == b"out\n"
    container.remove()


def test_logs_when_closed_then_end(client, image):
    container = client.containers.run(
        image, ["sh", "-c", "echo begun; sleep 100"], kernel_memory="8m", detach=True, **OPTIONS
    )
    log = container.logs(stream=True)
    assert next(log) == b"begun\n"
    log.close()
    assert list(log) == []
    container.remove(force=True)


@pytest.mark.parametrize("limit", [{}, {"kernel_memory": "8m"}], ids=["untouched", "limited"])
def test_run_when_told_to_remove_then_nothing_is_left(client, image, limit, engine):
    before = containers(engine)
    client.containers.run(image, "true", remove=True, **OPTIONS, **limit)
    assert containers(engine) == before


def test_run_when_the_engine_removes_it_then_the_account_is_closed(client, image):
    container = client.containers.run(
        image, ["sleep", "100"], kernel_memory="1m", detach=True, remove=True, **OPTIONS
    )
    box = container.kmem
    container.kill()
    until(lambda: box.closed, 20, "the removal was not noticed")
    assert box.report()["memcg"]["kmem"]["usage"] == 0


def test_create_and_start_then_update_changes_the_limit(client, image):
    container = client.containers.create(image, ["sleep", "100"], kernel_memory="1MiB", **OPTIONS)
    assert container.status == "created"
    container.start()
    container.update(kernel_memory="2m")
    assert container.kmem.memcg.kmem.limit == 2 * MIB
    assert container.kmem is client.containers.get(container.name).kmem


@pytest.mark.parametrize("name", [lambda one: one.id[:3], lambda one: f"{one.name}-new"])
def test_exec_when_its_container_is_named_otherwise_then_is_bound_all_the_same(client, image, name):
    """An id as short as one likes, or a new name, named it to the engine and not to us."""
    one = client.containers.run(image, ["sleep", "60"], kernel_memory="1m", detach=True, **OPTIONS)
    client.api.rename(one.id, f"{one.name}-new") if name(one).endswith("-new") else None
    forks = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done"
    made = client.api.exec_create(name(one), ["sh", "-c", forks])
    output = client.api.exec_start(made["Id"])
    report = one.kmem.report()
    one.remove(force=True)
    assert b"can't fork" in output
    assert not report["breaches"]
    assert report["memcg"]["kmem"]["max_usage"] <= MIB


@pytest.mark.parametrize(
    ("update", "limit"),
    [
        (lambda api, one: api.update_container(one.id, kernel_memory="8MiB"), 8 * MIB),
        (lambda api, one: api.update_container(one.id, *[None] * 9, 3 * MIB), 3 * MIB),
        (lambda _, one: one.update(kernel_memory="max"), -1),
        (lambda _, one: one.update(cpu_shares=512, kernel_memory="5m"), 5 * MIB),
    ],
    ids=["our-sizes", "by-position", "none", "with-others"],
)
def test_update_when_asked_in_any_way_then_sets_the_limit(client, image, update, limit):
    one = client.containers.run(image, ["sleep", "60"], kernel_memory="4m", detach=True, **OPTIONS)
    update(client.api, one)
    assert one.kmem.memcg.kmem.limit == limit
    one.remove(force=True)


def test_update_when_it_cannot_be_done_then_says_so_and_changes_nothing(client, image):
    one = client.containers.run(image, ["sleep", "60"], kernel_memory="4m", detach=True, **OPTIONS)
    free = client.containers.run(image, ["sleep", "60"], detach=True, **OPTIONS)
    with pytest.raises(ConfigurationError, match="'8 apples'"):
        one.update(kernel_memory="8 apples")
    with pytest.raises(ConfigurationError, match="was made without kernel_memory"):
        free.update(kernel_memory="8m")
    assert one.kmem.memcg.kmem.limit == 4 * MIB
    for each in (one, free):
        each.remove(force=True)


@pytest.mark.parametrize(
    ("asked", "entrypoint", "command"),
    [
        ({}, None, ["sh", "-c", "echo own command"]),
        ({"command": ["echo", "other"]}, None, ["echo", "other"]),
        ({"entrypoint": ["echo"], "command": ["a", "b"]}, ["echo"], ["a", "b"]),
    ],
)
def test_commit_then_the_image_has_what_was_asked_for_and_not_our_shim(
    client, image, asked, entrypoint, command, engine
):
    healthcheck = {"test": ["CMD", "true"], "interval": 10**9 * 3600}
    one = client.containers.create(
        image, kernel_memory="4m", healthcheck=healthcheck, labels={"mine": "1"}, **asked, **OPTIONS
    )
    assert one.labels["io.github.kmem-harness.command"].startswith("[")
    committed = one.commit(f"{image.replace(':', '-')}", "made")
    try:
        config = committed.attrs["Config"]
        assert (config["Entrypoint"] or None) == entrypoint
        assert config["Cmd"] == command
        assert config["Healthcheck"]["Test"] == ["CMD", "true"]
        assert config["Labels"]["mine"] == "1"
        # Else it would be swept with the client.
        assert not config["Labels"]["io.github.kmem-harness.owner"]
        one.remove()
        assert engine.client.containers.run(committed.id, remove=True, **OPTIONS).strip() in (
            b"own command",
            b"other",
            b"a b",
        )
    finally:
        client.images.remove(committed.id, force=True)


def test_run_when_there_is_no_such_image_then_says_so_in_few_lines(client):
    for ask in (client.containers.run, client.containers.create):
        with pytest.raises(ImageNotFound, match=r"(?i)no such image: kmem-no-such-image") as caught:
            ask("kmem-no-such-image", kernel_memory="4m", network_mode="none")
        told = traceback.format_exception(caught.value)
        assert sum(one.count("\n") for one in told) < 20


@pytest.mark.parametrize("limit", ["lots", "64MB?", 100, -7, 1.5])
def test_run_when_kernel_memory_is_nonsense_then_says_so(client, image, limit):
    with pytest.raises(ConfigurationError):
        client.containers.run(image, ["true"], kernel_memory=limit, **OPTIONS)


def test_run_when_kernel_memory_is_no_limit_then_is_docker_pys_own_business(client, image):
    container = client.containers.run(image, "true", kernel_memory=-1, detach=True, **OPTIONS)
    assert container.kmem is None
    container.remove(force=True)


def test_close_then_its_containers_are_gone(engine, usable, image):
    client = kmem_harness.docker.from_env()
    container = client.containers.run(
        image, ["sleep", "100"], kernel_memory="1m", detach=True, **OPTIONS
    )
    client.close()
    assert container.name not in {one.name for one in engine.client.containers.list(all=True)}


def test_patch_then_code_that_only_knows_docker_py_is_limited(engine, usable, image):
    with kmem_harness.docker.patch():
        container = docker.from_env().containers.run(
            image, BOMB, kernel_memory="4m", detach=True, **OPTIONS
        )
        until(lambda: container.kmem.refusals, 30, "the bomb met no limit")
        assert container.exec_run is not None
        plain = docker.from_env().containers.run(image, "echo plain", remove=True, **OPTIONS)
        assert plain == b"plain\n"
    assert not hasattr(Container, "kmem")
    assert container.name not in {one.name for one in engine.client.containers.list(all=True)}


def test_patch_when_it_has_a_limit_then_that_is_everybodys(engine, usable, image):
    with kmem_harness.docker.patch(kernel_memory="1m"):
        container = docker.from_env().containers.run(image, "sleep 100", detach=True, **OPTIONS)
        assert container.kmem.memcg.kmem.limit == MIB
