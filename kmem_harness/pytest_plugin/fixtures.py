"""The fixtures. Each may be redefined by a project; the others take what it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kmem_harness.pytest_plugin.containers import ContainerFactory, cannot_enforce
from kmem_harness.pytest_plugin.markers import limit_of
from kmem_harness.pytest_plugin.running import FACTORY
from kmem_harness.pytest_plugin.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.harness import Harness, MemcgHandle

__all__ = ["kmem_container", "kmem_harness", "kmem_memcg"]


@pytest.fixture(scope="session")
def kmem_harness(pytestconfig: pytest.Config) -> Iterator[Harness]:
    """Give the session's harness: one controller for all tests of this process."""
    from kmem_harness.core.errors import UnsupportedHostError
    from kmem_harness.harness import Harness

    settings = pytestconfig.stash[SETTINGS]
    try:
        harness = Harness(settings.kernel)
    except UnsupportedHostError as error:
        cannot_enforce(error, require=settings.require)
    with harness:
        yield harness


@pytest.fixture
def kmem_memcg(request: pytest.FixtureRequest, kmem_harness: Harness) -> Iterator[MemcgHandle]:
    """Give this test's memcg, limited by its ``limit_kmem`` marker or the settings."""
    limit = limit_of(request.node, request.config.stash[SETTINGS].limit)
    memcg = kmem_harness.memcg(f"/pytest/{_memcg_name(request.node.nodeid)}", limit.size)
    yield memcg
    for child in memcg.children():
        child.remove()
    memcg.remove()


@pytest.fixture
def kmem_container(
    request: pytest.FixtureRequest, kmem_harness: Harness, kmem_memcg: MemcgHandle
) -> Iterator[ContainerFactory]:
    """Give a factory of containers that live under this test's memcg and end with the test."""
    settings = request.config.stash[SETTINGS]
    limit = limit_of(request.node, settings.limit)
    factory = ContainerFactory(kmem_harness, kmem_memcg, limit, settings)
    request.node.stash[FACTORY] = factory
    yield factory
    factory.close()


def _memcg_name(nodeid: str) -> str:
    return nodeid.replace("/", ":").replace("\n", " ")[-200:]
