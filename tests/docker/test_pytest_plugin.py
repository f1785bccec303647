"""What a failing test shows of its containers: their last words, and one sentence of ours."""

from __future__ import annotations

import os

import pytest

from tests.pytest_plugin.conftest import project

__all__ = ["project"]

WORKERS = ("-p", "xdist", "-n", "2")


@pytest.fixture
def docker_project(project, engine, image, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", os.environ.get("DOCKER_HOST", engine.host))
    project.ini(f"kmem_image = {image}\nkmem_runtime = docker\nkmem_kernel = v4")
    return project


@pytest.mark.parametrize("way", [(), WORKERS], ids=["alone", "in workers"])
def test_container_when_its_test_fails_then_its_last_output_is_shown(docker_project, way):
    """It was nowhere: the container went with the test, and its log with it."""
    docker_project.tests("""
SAYS = ["sh", "-c", "i=0; while [ $i -lt 40 ]; do echo said-$i; i=$((i+1)); done"]
OPTIONS = {"network_mode": "none", "kmem_limit": "1M"}

def test_left_to_the_fixture(kmem_container):
    kmem_container(SAYS, **OPTIONS).wait(timeout=30)
    assert False

def test_removed_by_the_test(kmem_container):
    with kmem_container(SAYS, **OPTIONS) as box:
        box.wait(timeout=30)
    assert False

def test_passes(kmem_container):
    kmem_container(["echo", "not shown"], **OPTIONS).wait(timeout=30)
""")
    result = docker_project.run(*way)
    result.assert_outcomes(passed=1, failed=2)
    lines = result.outlines
    assert lines.count("said-39") == lines.count("said-20") == 2
    assert "said-19" not in lines
    assert "not shown" not in lines
    result.stdout.fnmatch_lines(["*- kmem: last output of c1: sh -c *"])


def test_errors_of_ours_when_a_test_makes_them_then_one_sentence_and_its_line_are_shown(
    docker_project,
):
    """They came with 130 lines through requests and docker-py."""
    docker_project.tests("""
OPTIONS = {"network_mode": "none", "kmem_limit": "1M"}

def test_image(kmem_container):
    kmem_container(["true"], image="no-such-image", **OPTIONS)

def test_command(kmem_container):
    assert kmem_container(["no-such-command"], **OPTIONS).wait(timeout=30) == 0

def test_timeout(kmem_container):
    box = kmem_container(["sleep", "1000"], **OPTIONS)
    box.wait(timeout=0.1)

def test_wrapped(kmem_container):
    try:
        kmem_container(["true"], image="no-such-image", **OPTIONS)
    except ValueError as error:
        raise RuntimeError("it did not start") from error
""")
    result = docker_project.run("-p", "no:logging")
    result.assert_outcomes(failed=4)
    text = result.stdout.str()
    for inside in (
        "requests",
        "docker/errors",
        "site-packages",
        "kmem_harness/",
        "During handling",
    ):
        assert inside not in text.partition("FAILURES")[2], inside
    assert "the engine has no such image; build it, pull it" in text
    assert "last output of c1: no-such-command" in text
    assert "TimeoutError: the container still runs after 0.1 s" in text
    assert "RuntimeError: it did not start" in text
    full = docker_project.run("--full-trace", "-k", "image").stdout.str()
    assert "kmem_harness/harness.py" in full
