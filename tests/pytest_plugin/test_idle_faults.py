"""A test whose fault never happened is not green, unless it says that this may be."""

from __future__ import annotations

import pytest

CODE = "import os, socket\nfor _ in range(2): socket.socket().close()"
BODY = f"""
CODE = {CODE!r}
def run(kmem_container):
    assert kmem_container([sys.executable, "-I", "-S", "-c", CODE]).wait(timeout=30) == 0
"""


@pytest.mark.parametrize("way", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "in workers"])
def test_fault_when_it_never_happens_then_the_test_fails_and_names_what_there_was(way, project):
    """The test was green, and nothing said that what it is about never happened."""
    project.tests(
        BODY
        + """
@pytest.mark.kmem_fault("socket:error=ENOBUFS:when=3")
def test_too_late(kmem_container):
    run(kmem_container)

@pytest.mark.kmem_fault("socketpair:error=ENOBUFS", "socket:count")
def test_another_call(kmem_container):
    run(kmem_container)

@pytest.mark.kmem_fault("socket:error=ENOBUFS", container=2)
def test_another_container(kmem_container):
    run(kmem_container)
"""
    )
    result = project.run(*way)
    result.assert_outcomes(failed=3)
    text = result.stdout.str()
    assert "KH-F001: kmem_fault 'socket:error=ENOBUFS:when=3' never fired" in text
    assert "there were 2 socket" in text
    assert "kmem_fault 'socketpair:error=ENOBUFS' never fired" in text
    assert "never fired: there is no container 2" in text
    assert "optional=1" in text
    assert "failed with kmem: 3 fault" in text


def test_fault_when_it_need_not_happen_or_does_in_one_container_then_the_test_is_green(project):
    project.tests(
        BODY
        + """
@pytest.mark.kmem_fault("socketpair:error=ENOBUFS:optional=1", "mkdir:count")
def test_optional(kmem_container):
    run(kmem_container)

@pytest.mark.kmem_fault("mkdir:error=ENOMEM")
def test_second(kmem_container):
    run(kmem_container)
    assert kmem_container(["mkdir", "made"], stderr=subprocess.DEVNULL).wait(timeout=30) == 1

@pytest.mark.kmem_fault("socket:error=EIO:prob=0.000001:seed=1")
def test_by_chance(kmem_container):
    run(kmem_container)

@pytest.mark.kmem_fault("socket:error=EIO:when=99")
def test_that_is_skipped(kmem_container):
    pytest.skip("nothing was to happen")
"""
    )
    project.run().assert_outcomes(passed=3, skipped=1)
