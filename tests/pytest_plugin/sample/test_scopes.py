"""Containers that live longer than a test."""

import pytest
from workloads import OBEDIENT, tell

pytestmark = pytest.mark.limit_kmem("48k")


@pytest.fixture(scope="module")
def server(kmem_container_module):
    return kmem_container_module(**OBEDIENT)


@pytest.fixture(scope="session")
def daemon(kmem_container_session):
    return kmem_container_session(**OBEDIENT, kmem_limit="32k")


def test_module_has_a_limit(server, kmem_memcg_module):
    assert kmem_memcg_module.kmem.limit == 48 << 10
    assert server.memcg.path.startswith(kmem_memcg_module.path + "/")
    assert tell(server, "fork", 1) == [1, None]
    assert tell(server, "reap", 1) == [1, None]


def test_module_s_container_lives_on(server):
    assert server.status is None
    assert tell(server, "reap", tell(server, "fork", 1)[0]) == [1, None]


def test_session_has_the_settings_limit(daemon, kmem_memcg_session, kmem_memcg_module):
    assert kmem_memcg_session.kmem.limit > 1 << 20
    assert tell(daemon, "fork", 1) == [1, None]
    assert tell(daemon, "reap", 1) == [1, None]


def test_test_has_a_memcg_of_its_own(kmem_memcg, kmem_memcg_module, kmem_memcg_session):
    paths = {kmem_memcg.path, kmem_memcg_module.path, kmem_memcg_session.path}
    assert len(paths) == 3


@pytest.mark.limit_kmem_leaks
def test_leak_of_a_longer_lived_container_fails(daemon):
    assert tell(daemon, "fork", 1) == [1, None]


def test_refusal_of_a_longer_lived_container_fails(server):
    made, refused = tell(server, "fork", 9)
    tell(server, "reap", made)
    assert refused is None
