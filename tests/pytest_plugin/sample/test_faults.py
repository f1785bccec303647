"""Calls that fail on purpose, whatever the limit: some of them, or each in its turn."""

import pytest
from workloads import OBEDIENT, tell


@pytest.mark.kmem_fault("clone:error=EAGAIN:when=2")
def test_second_child_is_refused(obedient):
    assert tell(obedient, "fork", 3) == [1, "EAGAIN"]
    assert tell(obedient, "fork", 3) == [3, None]


@pytest.mark.kmem_fault("clone:error=EAGAIN:when=2", container=2)
def test_one_of_two_containers_is_refused(kmem_container):
    first, second = kmem_container(**OBEDIENT), kmem_container(**OBEDIENT)
    assert tell(first, "fork", 3) == [3, None]
    assert tell(second, "fork", 3) == [1, "EAGAIN"]


@pytest.mark.kmem_sweep(calls="clone", modes="once")
class TestSwept:
    def test_each_failure_is_told(self, kmem_container):
        assert tell(kmem_container(**OBEDIENT), "fork", 2)[1] in (None, "ENOMEM")

    @pytest.mark.kmem_sweep(max=1, calls="clone", error="EAGAIN", modes="persist")
    @pytest.mark.kmem_fault("socketpair:error=EMFILE:when=2")
    def test_nearer_sweep_holds_and_other_faults_too(self, kmem_container):
        box = kmem_container(**OBEDIENT)
        assert tell(box, "socket", 2) == [1, "EMFILE"]
        assert tell(box, "fork", 2) in ([2, None], [0, "EAGAIN"])

    def test_each_container_in_turn(self, obedient, kmem_container):
        assert tell(obedient, "fork", 1) == [1, None]
        told = [tell(kmem_container(**OBEDIENT), "fork", 1)[0] for _ in range(2)]
        assert told in ([1, 1], [0, 1], [1, 0])

    def test_failure_that_goes_unnoticed_fails(self, kmem_container):
        tell(kmem_container(**OBEDIENT), "fork", 1)
        assert tell(kmem_container(**OBEDIENT), "fork", 1) == [1, None]

    def test_nothing_to_sweep_fails(self, obedient):
        assert tell(obedient, "fork", 1) == [1, None]
