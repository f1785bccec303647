"""Whose limit holds, and for what."""

import pytest
from workloads import OBEDIENT, TASK, tell


def test_settings_limit_the_memcg(kmem_memcg):
    assert kmem_memcg.kmem.limit > 1 << 20


@pytest.mark.limit_kmem("1M")
def test_marker_beats_settings(kmem_memcg):
    assert kmem_memcg.kmem.limit == 1 << 20


@pytest.mark.limit_kmem("max")
def test_marker_takes_the_limit_away(kmem_container, kmem_memcg):
    assert kmem_memcg.kmem.limit == -1
    box = kmem_container(["true"])
    assert box.wait(timeout=30) == 0
    assert box.report()["mode"] == "off"


@pytest.mark.limit_kmem(32768)
def test_marker_takes_bytes_and_refuses(obedient, kmem_memcg):
    assert tell(obedient, "fork", 9) == [4, "ENOMEM"]
    assert obedient.refusals[0].refused_by == kmem_memcg.path


@pytest.mark.limit_kmem("32k", mode="observe")
def test_observing_refuses_nothing(obedient, kmem_memcg):
    assert tell(obedient, "fork", 9) == [9, None]
    assert kmem_memcg.kmem.max_usage == 9 * TASK


@pytest.mark.limit_kmem("16k", kinds=["task"])
def test_tasks_alone_are_limited(obedient):
    assert tell(obedient, "thread", 5) == [5, None]
    assert tell(obedient, "fork", 5) == [2, "ENOMEM"]


@pytest.mark.limit_kmem("16k", kinds=("thread",))
def test_threads_alone_are_limited(obedient):
    assert tell(obedient, "fork", 5) == [5, None]
    assert tell(obedient, "thread", 5) == [2, "no thread"]


@pytest.mark.limit_kmem("16k")
def test_all_kinds_are_limited_together(obedient):
    assert tell(obedient, "thread", 1) == [1, None]
    assert tell(obedient, "fork", 5) == [1, "ENOMEM"]


def test_container_has_a_limit_of_its_own(kmem_container):
    box = kmem_container(**OBEDIENT, kmem_limit="24k")
    assert tell(box, "fork", 9) == [3, "ENOMEM"]
    assert box.refusals[0].refused_by == box.memcg.path


@pytest.mark.limit_kmem("40k")
def test_containers_share_the_test_s_limit(kmem_container):
    first, second = kmem_container(**OBEDIENT), kmem_container(**OBEDIENT)
    assert tell(first, "fork", 3) == [3, None]
    assert tell(second, "fork", 3) == [2, "ENOMEM"]


@pytest.mark.limit_kmem("16k")
class TestClass:
    def test_class_limits_its_tests(self, obedient):
        assert tell(obedient, "fork", 9) == [2, "ENOMEM"]

    @pytest.mark.limit_kmem("24k")
    def test_test_is_nearer_than_its_class(self, obedient):
        assert tell(obedient, "fork", 9) == [3, "ENOMEM"]

    @pytest.mark.parametrize(
        "made",
        [
            pytest.param(1, marks=pytest.mark.limit_kmem("8k")),
            pytest.param(4, marks=pytest.mark.limit_kmem("32k")),
        ],
    )
    def test_parameter_set_has_a_limit(self, obedient, made):
        assert tell(obedient, "fork", 9) == [made, "ENOMEM"]
