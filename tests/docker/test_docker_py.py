"""docker-py's own calls, with ``kernel_memory`` meaning something again."""

from __future__ import annotations

import docker
import pytest
from docker.errors import ContainerError
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
