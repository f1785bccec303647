"""docker-py's own ``kernel_memory`` means something again: by a client of ours, and by a patch."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker_matrix.images import BUSYBOX
from tests.support.engine import cannot_run, peak_until

if TYPE_CHECKING:
    from tests.support.engine import Engine

pytestmark = pytest.mark.usefixtures("images")

_ROOT = Path(__file__).parent.parent.parent
_BOMB = "(b(){ b|b& };b) 2>/dev/null & exec sleep 60"
#: 4 MiB at 87233 bytes a process, in the profile 5.10.
_MOST = 48
_AROUND = 1
_SECONDS = 60
_FORK = "fork_pause 200"
_BOUND = f"children={_MOST} errno=ENOMEM"


def run_script(script: str, engine: Engine, *arguments: str) -> str:
    """Run Python code as a program that knows no more than its imports."""
    python_path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    outcome = subprocess.run(
        [sys.executable, "-c", dedent(script), BUSYBOX, *arguments],
        env={
            **os.environ,
            "DOCKER_HOST": engine.host,
            "PYTHONPATH": python_path,
            # Its reaper is an image on a registry.
            "TESTCONTAINERS_RYUK_DISABLED": "true",
        },
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def need(module: str) -> None:
    if find_spec(module) is None:
        cannot_run(f"{module} is not installed: pip install 'kmem-harness[test]'")


def test_from_env_when_kernel_memory_is_given_then_contains_the_bomb(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kmem_harness.docker

    monkeypatch.setenv("DOCKER_HOST", engine.host)
    client = kmem_harness.docker.from_env()
    try:
        container = client.containers.run(
            BUSYBOX,
            ["sh", "-c", _BOMB],
            kernel_memory="4m",
            network_mode="none",
            pids_limit=300,
            detach=True,
        )
        peak = peak_until(container, lambda: bool(container.kmem.refusals)) - _AROUND
        assert container.wait()["StatusCode"] == 137
        report = container.kmem.report()
        container.remove()
    finally:
        client.close()
    # The kernel counts those that have ended, too, which are charged less: the bytes are the bound.
    assert peak < 300
    assert report["memcg"]["kmem"]["max_usage"] <= 4 << 20
    assert report["kinds"]["task"]["live_peak"] <= _MOST
    assert report["memcg"]["kmem"]["limit"] == 4 << 20
    assert report["refusals"]["total"] > 0


@pytest.mark.slow  # tests/docker has the quick one, here and below
def test_from_env_when_no_limit_is_given_then_is_plain_docker(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kmem_harness.docker

    monkeypatch.setenv("DOCKER_HOST", engine.host)
    client = kmem_harness.docker.from_env()
    try:
        output = client.containers.run(
            BUSYBOX, ["fork_pause", "60"], network_mode="none", pids_limit=300, remove=True
        )
        assert output == b"children=60 errno=none\n"
    finally:
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["lots", "8 apples", True, -5])
def test_from_env_when_kernel_memory_is_nonsense_then_names_it_and_leaves_nothing(
    limit: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kmem_harness.docker

    monkeypatch.setenv("DOCKER_HOST", engine.host)
    there = engine.client.containers.list(all=True)
    client = kmem_harness.docker.from_env()
    try:
        with pytest.raises(ValueError, match=str(limit)):
            client.containers.run(BUSYBOX, ["true"], kernel_memory=limit, network_mode="none")
    finally:
        client.close()
    assert engine.client.containers.list(all=True) == there


def test_patch_when_code_knows_docker_py_only_then_contains_it(engine: Engine) -> None:
    script = """
        import sys
        import kmem_harness.docker

        kmem_harness.docker.patch()

        import docker
        client = docker.from_env()
        limited = dict(kernel_memory="4m", network_mode="none", pids_limit=300)
        print(client.containers.run(sys.argv[1], sys.argv[2], remove=True, **limited).decode())
        container = client.containers.create(sys.argv[1], sys.argv[2], **limited)
        container.start()
        container.wait()
        print(container.logs().decode())
        container.remove()
    """
    assert run_script(script, engine, _FORK).split("\n\n") == [_BOUND, _BOUND, ""]


def test_patch_when_testcontainers_is_used_unchanged_then_contains_it(engine: Engine) -> None:
    need("testcontainers")
    script = """
        import sys
        import kmem_harness.docker

        kmem_harness.docker.patch()

        from testcontainers.core.container import DockerContainer

        container = DockerContainer(sys.argv[1]).with_command(sys.argv[2])
        with container.with_kwargs(kernel_memory="4m", network_mode="none", pids_limit=300):
            print(container.wait())
            print(container.get_logs()[0].decode())
        held = DockerContainer(sys.argv[1]).with_command("sleep 30")
        with held.with_kwargs(kernel_memory="4m", network_mode="none", pids_limit=300):
            print(held.exec(["fork_pause", "200"]))
    """
    status, line, _, execution, _ = run_script(script, engine, _FORK).split("\n")
    assert (status, line) == ("0", _BOUND)
    assert _BOUND in execution


def test_patch_when_pytest_docker_tools_is_used_unchanged_then_contains_it(
    engine: Engine, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("pytest_docker_tools")
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        f"""
        from pytest_docker_tools import container, image
        from pytest_docker_tools.wrappers import Container

        class WithoutNetwork(Container):
            # The usual one waits for an address.
            def ready(self):
                self._container.reload()
                return self.status in ("running", "exited")

        box = image(name={BUSYBOX!r})
        limited = container(
            image="{{box.id}}", command={_FORK!r}, kernel_memory="4m", network_mode="none",
            pids_limit=300, wrapper_class=WithoutNetwork,
        )
        free = container(
            image="{{box.id}}", command="fork_pause 60", network_mode="none", pids_limit=300,
            wrapper_class=WithoutNetwork,
        )

        def test_limited(limited):
            assert limited._container.wait()["StatusCode"] == 0
            assert limited.logs() == {_BOUND + chr(10)!r}

        def test_free(free):
            free._container.wait()
            assert free.logs() == "children=60 errno=none\\n"
        """
    )
    plugins = ["-p", "kmem_harness.pytest_plugin", "-p", "pytest_docker_tools.plugin"]
    outcome = pytester.runpytest_subprocess(*plugins, "--kmem-docker-patch", timeout=_SECONDS)
    outcome.assert_outcomes(passed=2)
