"""What containers may hold on to."""

import pytest
from workloads import OBEDIENT, tell


@pytest.mark.limit_kmem_leaks
def test_nothing_held_is_no_leak(kmem_container):
    box = kmem_container(**OBEDIENT)
    assert tell(box, "fork", 3) == [3, None]
    assert tell(box, "reap", 3) == [3, None]


@pytest.mark.limit_kmem_leaks
def test_ended_container_holds_nothing(kmem_container):
    box = kmem_container(["sh", "-c", "sleep 1000 & sleep 1000 & exit 0"])
    assert box.wait(timeout=30) == 0


@pytest.mark.limit_kmem_leaks
def test_what_was_held_before_the_test_is_no_leak(held):
    assert tell(held, "fork", 1) == [1, None]
    assert tell(held, "reap", 1) == [1, None]


@pytest.mark.limit_kmem_leaks("16k")
def test_some_may_be_held(obedient):
    assert tell(obedient, "fork", 2) == [2, None]


@pytest.mark.limit_kmem_leaks("16k")
def test_more_than_allowed_fails(obedient):
    assert tell(obedient, "fork", 3) == [3, None]


@pytest.mark.limit_kmem("max")
@pytest.mark.limit_kmem_leaks(size="0")
def test_leak_without_a_limit_fails(kmem_container):
    box = kmem_container(**OBEDIENT)
    assert tell(box, "fork", 1) == [1, None]
    assert tell(box, "thread", 2) == [2, None]


@pytest.fixture
def held(obedient):
    assert tell(obedient, "fork", 2) == [2, None]
    return obedient
