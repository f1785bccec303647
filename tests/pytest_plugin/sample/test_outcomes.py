"""How tests can end."""

import pytest
from workloads import tell


@pytest.mark.limit_kmem("8k")
def test_refused_and_failed(obedient):
    assert tell(obedient, "fork", 9) == [9, None]


@pytest.mark.limit_kmem("8k")
def test_refused_and_passed(obedient):
    assert tell(obedient, "fork", 9) == [1, "ENOMEM"]


def test_failed_without_a_refusal(kmem_container):
    assert kmem_container(["false"]).wait(timeout=30) == 0


def test_skipped(kmem_container):
    kmem_container(["true"])
    pytest.skip("not today")


@pytest.mark.xfail(strict=True)
@pytest.mark.limit_kmem("8k")
def test_expected_to_fail(obedient):
    assert tell(obedient, "fork", 9) == [9, None]


def test_timeout_fails(kmem_container):
    box = kmem_container(["sleep", "1000"], timeout=0.05)
    assert box.wait(timeout=30) == 137


def test_memcg_without_containers(kmem_memcg):
    assert kmem_memcg.kmem.usage == 0


def test_unrelated():
    assert True
