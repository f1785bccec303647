"""``tasks`` and ``cgroup.procs`` of a live harness list real tasks."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from kmem_harness import Harness


@pytest.fixture(params=["user", "pid", "none"])
def isolated(request):
    from kmem_harness.runtimes.local import probe

    failure = probe(request.param)
    if failure:
        pytest.skip(f"isolation {request.param}: {failure}")
    with Harness("v4", isolation=request.param) as made:
        yield made


def test_cgroup_procs_of_live_box_lists_its_processes(isolated):
    with isolated.run(["sh", "-c", "sleep 30 & sleep 30"], kmem_limit="1M") as box:
        deadline = time.monotonic() + 10
        while len(pids := box.memcg.read("cgroup.procs").split()) < 3:
            assert time.monotonic() < deadline, pids
        for pid in pids:
            comm = Path(f"/proc/{pid}/comm").read_text(encoding="ascii")
            assert comm.strip() in {"sh", "sleep"}
        assert box.memcg.read("tasks").split() == pids


def test_cgroup_procs_after_box_is_empty(isolated):
    memcg = isolated.memcg("/quiet", kmem_limit="1M")
    with isolated.run(["true"], memcg=memcg) as box:
        box.wait(timeout=10)
    assert memcg.read("cgroup.procs") == ""
    memcg.remove()


def test_write_of_a_pid_says_that_tasks_stay(isolated):
    memcg = isolated.memcg("/fixed", kmem_limit="1M")
    with pytest.raises(OSError, match="stay in the memcg") as refused:
        memcg.write("cgroup.procs", "1")
    assert refused.value.errno == errno.EOPNOTSUPP
