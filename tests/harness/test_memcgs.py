"""Limits through the hierarchy, observed, and changed while boxes run."""

from __future__ import annotations

import errno
import subprocess

import pytest

from kmem_harness import ConfigurationError, Harness
from tests.harness.forker import TASK, Forker, python


def test_slice_when_two_boxes_fill_it_then_it_refuses_for_both(harness):
    slice_ = harness.memcg("/web.slice", kmem_limit=6 * TASK)
    with (
        Forker(harness, memcg=slice_.child("a")) as first,
        Forker(harness, memcg=slice_.child("b"), kmem_limit=4 * TASK) as second,
    ):
        assert first.fork(3) == (3, None)
        assert second.fork(9) == (3, "ENOMEM")
        (card,) = second.box.refusals
        assert (card.memcg, card.refused_by) == ("/web.slice/b", "/web.slice")
        assert (card.usage, card.limit) == (6 * TASK, 6 * TASK)
        assert (slice_.kmem.usage, slice_.kmem.failcnt) == (6 * TASK, 1)
        assert first.reap(2) == 1
        assert second.fork(9) == (1, "ENOMEM")  # now its own limit is the nearest
        assert second.box.refusals[1].refused_by == "/web.slice/b"
        assert slice_.kmem.usage == 5 * TASK
        first.finish()
        second.finish()
        assert first.box.report()["refusals"]["total"] == 0
    assert slice_.kmem.usage == 0
    assert slice_.kmem.max_usage == 6 * TASK
    assert [child.path for child in slice_.children()] == ["/web.slice/a", "/web.slice/b"]
    for child in slice_.children():
        child.remove()
    slice_.remove()
    assert slice_.kmem.max_usage == 6 * TASK  # its last figures stay readable
    with pytest.raises(FileNotFoundError):
        slice_.read("memory.kmem.usage_in_bytes")


def test_memcg_when_named_by_path_then_box_runs_in_it_and_it_outlives_the_box(harness):
    with Forker(harness, memcg="/named/one", kmem_limit=2 * TASK) as forker:
        assert forker.fork(3) == (2, "ENOMEM")
        with pytest.raises(OSError, match="runs in it") as caught:
            forker.box.memcg.remove()
        assert caught.value.errno == errno.EBUSY
        forker.finish()
    found = harness.memcg("/named/one")
    assert found.kmem.max_usage == 2 * TASK
    with Forker(harness, memcg=found) as forker:  # and binds the next
        assert forker.fork(3) == (2, "ENOMEM")
        forker.finish()
    found.remove()


def test_memcg_when_box_is_closed_then_its_own_is_removed(harness):
    with harness.run(["true"], kmem_limit="1M") as box:
        box.wait(timeout=30)
        assert box.memcg.path.startswith("/local/")
        assert box.memcg.read("memory.kmem.limit_in_bytes") == str(1 << 20)
    assert harness.controller.children("/local") == []
    assert box.memcg.kmem.limit == 1 << 20


def test_memcg_when_path_is_relative_then_configuration_error_says_how_to_write_it(harness):
    with pytest.raises(ConfigurationError, match=r"'web\.slice' does not start with '/'"):
        harness.memcg("web.slice")


def test_observe_when_limit_is_passed_then_refuses_nothing_and_counts(harness):
    with Forker(harness, mode="observe", kmem_limit=TASK) as forker:
        assert forker.fork(5) == (5, None)
        assert forker.box.memcg.kmem.usage == 5 * TASK
        forker.finish()
        report = forker.box.report()
    assert report["mode"] == "observe"
    assert report["refusals"]["total"] == 0
    assert report["memcg"]["kmem"]["max_usage"] == 5 * TASK
    assert report["memcg"]["kmem"]["usage"] == 0
    assert report["kinds"]["task"]["live_peak"] == 5


def test_observe_when_there_is_no_limit_then_counts_all_the_same(harness):
    with Forker(harness, mode="observe") as forker:
        assert forker.fork(3) == (3, None)
        forker.finish()
        assert forker.box.report()["memcg"]["kmem"]["max_usage"] == 3 * TASK


def test_limit_when_raised_while_running_then_binds_at_once(harness):
    with Forker(harness, kmem_limit=2 * TASK) as forker:
        assert forker.fork(5) == (2, "ENOMEM")
        forker.box.memcg.kmem.limit = "32k"
        assert forker.box.memcg.kmem.limit == 4 * TASK
        assert forker.fork(5) == (2, "ENOMEM")
        with pytest.raises(OSError) as caught:  # noqa: PT011 - EBUSY is all there is to see
            forker.box.memcg.kmem.limit = TASK  # more is in use
        assert caught.value.errno == errno.EBUSY
        assert forker.box.memcg.kmem.limit == 4 * TASK
        assert forker.reap(3) == 1
        forker.box.memcg.kmem.limit = TASK
        assert forker.fork(1) == (0, "ENOMEM")
        forker.box.memcg.kmem.limit = "max"
        assert forker.fork(20) == (20, None)
        forker.finish()


def test_limit_when_box_runs_without_a_filter_then_setting_one_is_refused(harness):
    slice_ = harness.memcg("/free.slice")
    with harness.run(["sleep", "1000"], memcg=slice_.child("box")) as box:
        for memcg in (box.memcg, slice_):
            for counter in (memcg.kmem, memcg.memory):
                with pytest.raises(OSError, match="runs without a filter") as caught:
                    counter.limit = "1M"
                assert caught.value.errno == errno.EBUSY
                assert counter.limit == -1
    slice_.child("box").remove()
    slice_.kmem.limit = "1M"
    assert slice_.kmem.limit == 1 << 20
    slice_.remove()


STATUS = "print(*[line for line in open('/proc/self/status') if line.startswith('Sec')], sep='')"


def test_filter_when_box_has_no_limit_then_there_is_none(harness):
    def seccomp_of(**options):
        with harness.run(python(STATUS), stdout=subprocess.PIPE, **options) as box:
            return box.communicate(timeout=30)[0].decode().split(), box.filter_flags

    ours = subprocess.run(python(STATUS), capture_output=True, text=True, check=True)
    expected = ours.stdout.split()
    free, flags = seccomp_of()
    assert free == expected
    assert flags == 0
    limited, flags = seccomp_of(kmem_limit="1M")
    if "Seccomp_filters:" in expected:  # since Linux 5.9
        count = expected.index("Seccomp_filters:") + 1
        assert int(limited[count]) == int(expected[count]) + 1
    assert flags


@pytest.mark.parametrize("kernel", ["v4", "3.8", "3.12", "5.10"])
def test_limit_when_kernel_is_emulated_then_binds_in_each(kernel):
    with Harness(kernel) as harness:
        each = harness._kinds()["task"]["nbytes"]
        limit = 3 * each + 4096
        with Forker(harness, kmem_limit=limit, kinds=["task"]) as forker:
            assert forker.fork(9) == (3, "ENOMEM")
            forker.finish()
            kmem = forker.box.report()["memcg"]["kmem"]
            assert kmem["max_usage"] <= kmem["limit"] <= limit
            assert kmem["usage"] == 0
            assert forker.box.report()["kernel"] == kernel
