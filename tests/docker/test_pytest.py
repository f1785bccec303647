"""``--kmem-runtime docker``: containers of a test suite that names no image run in an engine."""

from __future__ import annotations

from pathlib import Path

import kmem_harness
from tests.docker.conftest import STACK, containers

PLUGIN = "kmem_harness.pytest_plugin"


def test_container_when_the_runtime_is_docker_then_runs_in_the_image_of_the_settings(
    engine, usable, image, pytester, monkeypatch
):
    before = containers(engine)
    monkeypatch.setenv("PYTHONPATH", str(Path(kmem_harness.__file__).parent.parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("KMEM_HARNESS_RUNTIME", "docker")
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.limit_kmem({2 * STACK})
        def test_limited(kmem_container):
            script = "sleep 99 & sleep 99 & sleep 99 & wait"
            box = kmem_container(["sh", "-c", script], network_mode="none", pids_limit=50)
            assert box.wait(timeout=30) == 2
            assert box.container.image.tags == [{image!r}]
            assert box.refusals[0].errno == "ENOMEM"

        def test_local(kmem_container):
            assert kmem_container(["true"], runtime="local").wait(timeout=30) == 0
        """
    )
    options = ("--kmem-kernel=v4", f"--kmem-image={image}")
    outcome = pytester.runpytest_subprocess("-p", PLUGIN, *options, timeout=60)
    outcome.assert_outcomes(passed=2)
    assert containers(engine) == before


def test_container_when_its_test_fails_and_it_is_to_be_kept_then_stays_with_its_engine(
    engine, usable, image, pytester, monkeypatch
):
    before = containers(engine)
    monkeypatch.setenv("PYTHONPATH", str(Path(kmem_harness.__file__).parent.parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.limit_kmem("16k")
        @pytest.mark.parametrize("status", [0, 1])
        def test_it(kmem_container, status):
            script = "echo said so; sleep 100 & sleep 100 & sleep 100 & wait"
            box = kmem_container(["sh", "-c", script], network_mode="none", pids_limit=50)
            assert box.wait(timeout=30) == 2
            assert status == 0
        """
    )
    options = ("--kmem-kernel=v4", "--kmem-runtime=docker", f"--kmem-image={image}")
    outcome = pytester.runpytest_subprocess("-p", PLUGIN, "--kmem-keep=failed", *options)
    outcome.assert_outcomes(passed=1, failed=1)
    (kept,) = (pytester.path / "kmem-kept").iterdir()
    assert kept.name == "test_it.py_test_it[1]"
    # Output and errors come to the engine by a pipe each, in any order.
    said = (kept / "c1" / "log.txt").read_text().splitlines()
    assert sorted(said) == ["said so", "sh: can't fork: Cannot allocate memory"]
    assert '"ENOMEM"' in (kept / "c1" / "refusals.jsonl").read_text()
    (name,) = containers(engine) - before
    assert name.startswith("kmem-kept-")
    container = engine.client.containers.get(name)
    assert container.status == "exited"
    # The next session sweeps what dead ones left, and leaves this one alone.
    outcome = pytester.runpytest_subprocess("-p", PLUGIN, *options, "-k", "0")
    outcome.assert_outcomes(passed=1, deselected=1)
    assert name in containers(engine)
    container.remove(v=True, force=True)
