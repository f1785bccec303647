"""The fixtures. Each may be redefined by a project; the others take what it gives."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import pytest

from kmem_harness.pytest_plugin.fault_markers import faults_of, sweep_of
from kmem_harness.pytest_plugin.markers import limit_of
from kmem_harness.pytest_plugin.records import SESSION, begin
from kmem_harness.pytest_plugin.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.harness import Harness, MemcgHandle
    from kmem_harness.pytest_plugin.containers import ContainerFactory

__all__ = [
    "kmem_container",
    "kmem_container_class",
    "kmem_container_module",
    "kmem_container_session",
    "kmem_harness",
    "kmem_memcg",
    "kmem_memcg_class",
    "kmem_memcg_module",
    "kmem_memcg_session",
]


@pytest.fixture(scope="session")
def kmem_harness(pytestconfig: pytest.Config) -> Iterator[Harness]:
    """Give the session's harness: one controller for all tests of this process."""
    from kmem_harness.core.errors import UnsupportedHostError
    from kmem_harness.harness import Harness
    from kmem_harness.pytest_plugin.verdicts import cannot_enforce

    settings = pytestconfig.stash[SETTINGS]
    try:
        harness = Harness(
            settings.kernel,
            docker_listener=settings.docker_listener,
            controller=settings.controller,
        )
    except UnsupportedHostError as error:
        cannot_enforce(error, require=settings.require)
    with harness:
        yield harness


@pytest.fixture
def kmem_memcg(request: pytest.FixtureRequest, kmem_harness: Harness) -> Iterator[MemcgHandle]:
    """Give this test's memcg, limited by its ``limit_kmem`` marker or the settings."""
    yield from _memcg(request, kmem_harness)


@pytest.fixture(scope="class")
def kmem_memcg_class(
    request: pytest.FixtureRequest, kmem_harness: Harness
) -> Iterator[MemcgHandle]:
    """Give this class's memcg, limited by its ``limit_kmem`` marker or the settings."""
    yield from _memcg(request, kmem_harness)


@pytest.fixture(scope="module")
def kmem_memcg_module(
    request: pytest.FixtureRequest, kmem_harness: Harness
) -> Iterator[MemcgHandle]:
    """Give this module's memcg, limited by the ``limit_kmem`` in its pytestmark or the settings."""
    yield from _memcg(request, kmem_harness)


@pytest.fixture(scope="session")
def kmem_memcg_session(
    request: pytest.FixtureRequest, kmem_harness: Harness
) -> Iterator[MemcgHandle]:
    """Give the session's memcg, limited by the settings."""
    yield from _memcg(request, kmem_harness)


@pytest.fixture
def kmem_container(
    request: pytest.FixtureRequest, kmem_harness: Harness, kmem_memcg: MemcgHandle
) -> Iterator[ContainerFactory]:
    """Give a factory of containers that live under this test's memcg and end with the test."""
    yield from _factory(request, kmem_harness, kmem_memcg)


@pytest.fixture(scope="class")
def kmem_container_class(
    request: pytest.FixtureRequest, kmem_harness: Harness, kmem_memcg_class: MemcgHandle
) -> Iterator[ContainerFactory]:
    """Give a factory of containers that live under this class's memcg and end with it."""
    yield from _factory(request, kmem_harness, kmem_memcg_class)


@pytest.fixture(scope="module")
def kmem_container_module(
    request: pytest.FixtureRequest, kmem_harness: Harness, kmem_memcg_module: MemcgHandle
) -> Iterator[ContainerFactory]:
    """Give a factory of containers that live under this module's memcg and end with it."""
    yield from _factory(request, kmem_harness, kmem_memcg_module)


@pytest.fixture(scope="session")
def kmem_container_session(
    request: pytest.FixtureRequest, kmem_harness: Harness, kmem_memcg_session: MemcgHandle
) -> Iterator[ContainerFactory]:
    """Give a factory of containers that live under the session's memcg and end with it."""
    yield from _factory(request, kmem_harness, kmem_memcg_session)


def _memcg(request: pytest.FixtureRequest, harness: Harness) -> Iterator[MemcgHandle]:
    limit = limit_of(request.node, request.config.stash[SETTINGS])
    name = SESSION if request.scope == "session" else _memcg_name(request.node.nodeid)
    if request.scope == "class" and isinstance(request.node, pytest.Item):
        name += "(class)"  # a test outside of any class has one of its own, too
    memcg = harness.memcg(f"/pytest/{name}", limit.size)
    record = begin(request, memcg, limit)
    yield memcg
    for box in harness.boxes_below(memcg.path):  # what a test started itself
        box.close()
    record.settle(request.config)
    with suppress(FileNotFoundError):  # the test has removed it itself
        _remove(memcg)


def _remove(memcg: MemcgHandle) -> None:
    for child in memcg.children():
        _remove(child)
    memcg.remove()


def _factory(
    request: pytest.FixtureRequest, harness: Harness, memcg: MemcgHandle
) -> Iterator[ContainerFactory]:
    from kmem_harness.pytest_plugin.containers import ContainerFactory

    settings = request.config.stash[SETTINGS]
    record = begin(request, memcg, limit_of(request.node, settings))
    record.faults = faults_of(request.node)
    if sweep_of(request.node) is not None:
        with suppress(pytest.FixtureLookupError):  # before pytest 9, a plugin's
            record.subtests = request.getfixturevalue("subtests")
    factory = ContainerFactory(harness, record, settings)
    failed_before = request.session.testsfailed
    yield factory
    with nullcontext() if record.last_words is None else record.last_words.not_needed():
        factory.close(failed=request.session.testsfailed > failed_before)
    record.settle(request.config)


def _memcg_name(nodeid: str) -> str:
    return nodeid.replace("/", ":").replace("\n", " ")[-200:]
