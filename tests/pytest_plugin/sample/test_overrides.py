"""A project's own fixtures in place of ours."""

import pytest
from workloads import OBEDIENT, tell


class TestMemcg:
    @pytest.fixture
    def kmem_memcg(self, kmem_harness):
        memcg = kmem_harness.memcg("/web.slice", kmem_limit="24k")
        return memcg.child("mine")

    def test_containers_live_in_it(self, kmem_container):
        box = kmem_container(**OBEDIENT)
        assert box.memcg.path.startswith("/web.slice/mine/")
        assert tell(box, "fork", 9) == [3, "ENOMEM"]
        assert box.refusals[0].refused_by == "/web.slice"


class TestContainer:
    @pytest.fixture
    def kmem_container(self, kmem_container):
        return lambda: kmem_container(**OBEDIENT, kmem_limit="8k")

    def test_own_factory_is_used(self, kmem_container):
        assert tell(kmem_container(), "fork", 9) == [1, "ENOMEM"]


class TestHarness:
    @pytest.fixture
    def kmem_harness(self):
        from kmem_harness import Harness

        with Harness("5.10") as harness:
            yield harness

    def test_own_harness_is_used(self, kmem_memcg, kmem_container):
        box = kmem_container(["true"])
        assert box.wait(timeout=30) == 0
        assert box.report()["kernel"] == "5.10"
