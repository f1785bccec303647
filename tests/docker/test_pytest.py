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
