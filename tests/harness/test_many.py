"""Many boxes, many threads; what goes when a harness or a controller goes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmem_harness import Harness
from kmem_harness.controller.owner.client import ControllerDiedError
from kmem_harness.runtimes.spec import BoxSpec
from tests.harness.forker import PYTHON, TASK, Forker, python
from tests.support.descriptors import nr_descriptors
from tests.support.leftovers import lives
from tests.support.peak import descendants, until

if TYPE_CHECKING:
    from kmem_harness import Box

CGROUPS = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]
#: Forks children until it is refused, says how many there were, and waits for its input to end.
FILL = """
import os, signal, sys
made = 0
try:
    while True:
        if os.fork() == 0:
            signal.pause()
        made += 1
except OSError:
    print(made, flush=True)
    sys.stdin.read()
"""


def our_cgroups() -> list[Path]:
    return [path for root in CGROUPS for path in root.glob(f"kmem-harness-{os.getpid():x}-*")]


def descriptors_of(pid: int | str) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one this listing itself needed
            found.append(str(entry.readlink()).split(":")[0])
    return sorted(found)


def test_boxes_when_many_run_at_once_then_each_is_limited_alone_and_nothing_is_left():
    before = set(descendants(os.getpid()))
    with Harness("v4") as harness:
        directory = Path(harness.controller.directory)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        boxes = [
            harness.run([*PYTHON, FILL], kmem_limit=(1 + number % 4) * TASK, **pipes)
            for number in range(32)
        ]
        for number, box in enumerate(boxes):
            assert int(box.running.stdout.readline()) == 1 + number % 4
            assert box.memcg.kmem.usage == (1 + number % 4) * TASK
        assert len(harness.controller.request("boxes")["boxes"]) == 32
        assert directory.exists()
        processes = set(descendants(os.getpid())) - before
        assert len(processes) > 32 * 3
    assert not set(descendants(os.getpid())) - before
    until(
        lambda: not [pid for pid in processes if Path(f"/proc/{pid}").exists()],
        2,
        "processes are left",
    )
    assert not directory.exists()
    assert not our_cgroups()
    for number, box in enumerate(boxes):
        report = box.report()
        assert report["refusals"]["total"] == 1
        assert report["memcg"]["kmem"]["usage"] == 0
        assert report["memcg"]["kmem"]["max_usage"] == (1 + number % 4) * TASK
        assert report["signal"] == signal.SIGKILL
        for pipe in (box.running.stdin, box.running.stdout):
            pipe.close()
    harness.close()


def test_run_when_called_from_many_threads_then_each_gets_its_own_box(harness):
    def one(number: int) -> tuple[int, str, int]:
        code = f"import os, sys; os.waitpid(os.posix_spawn('/bin/true', ['true'], {{}}), 0); sys.exit({number})"
        with harness.run(python(code), kmem_limit=2 * TASK) as box:
            status = int(box.wait(timeout=60))
            return status, box.name, box.report()["kinds"]["task"]["charged"]

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(one, range(40)))
    assert [status for status, _, _ in results] == list(range(40))
    assert len({name for _, name, _ in results}) == 40
    assert {charged for _, _, charged in results} == {1}
    assert not [box for box in harness._boxes if not box.closed]


def test_box_when_several_threads_wait_and_one_kills_then_all_see_the_same_end(harness):
    box = harness.run(["sleep", "1000"], kmem_limit="1M")
    with ThreadPoolExecutor(6) as threads:
        waiting = [threads.submit(box.wait, 30) for _ in range(4)]
        killing = [threads.submit(box.kill) for _ in range(2)]
        assert {int(one.result()) for one in waiting} == {137}
        assert {one.result() for one in killing} == {None}
    box.close()


def test_descriptors_when_many_boxes_have_come_and_gone_then_none_is_left(harness):
    def come_and_go(times: int) -> None:
        for number in range(times):
            limit = None if number % 5 == 0 else "1M"
            with harness.run(["sh", "-c", "true & wait"], kmem_limit=limit) as box:
                assert box.wait(timeout=30) == 0
            with pytest.raises(ValueError, match="below one page"):
                harness.run(["true"], kmem_limit=1)

    come_and_go(3)
    gc.collect()
    ours, theirs = descriptors_of("self"), nr_descriptors(harness.controller.pid)
    come_and_go(50)
    gc.collect()
    assert descriptors_of("self") == ours
    assert nr_descriptors(harness.controller.pid) == theirs
    left = [path.name for path in Path(harness.controller.directory).iterdir()]
    assert left == ["control.sock"]


def test_box_when_controller_is_killed_then_is_ended_and_its_report_still_read():
    with Harness("v4") as harness:
        directory = Path(harness.controller.directory)
        with Forker(harness, kmem_limit=2 * TASK) as forker:
            assert forker.fork(3) == (2, "ENOMEM")
            seen = forker.box.report()
            os.kill(harness.controller.pid, signal.SIGKILL)
            with pytest.raises(ControllerDiedError, match="was ended: the controller died"):
                forker.box.wait(timeout=30)
            report = forker.box.report()
            assert report["controller_died"]
            assert report["signal"] == signal.SIGKILL
            assert report["refusals"] == seen["refusals"]
            assert report["memcg"]["kmem"]["max_usage"] == 2 * TASK
        with pytest.raises(ControllerDiedError, match="did not answer"):
            harness.run(["true"])
    assert not directory.exists()
    assert not our_cgroups()


def test_report_when_controller_is_killed_before_it_was_asked_then_has_the_limits():
    with (
        Harness("v4") as harness,
        harness.run(["sleep", "60"], kmem_limit=2 * TASK, memory_limit="1M") as box,
    ):
        os.kill(harness.controller.pid, signal.SIGKILL)
        with pytest.raises(ControllerDiedError):
            box.wait(timeout=30)
        memcg = box.report()["memcg"]
    assert memcg["path"] == box.memcg.path
    assert memcg["kmem"] == {"limit": 2 * TASK, "usage": 0, "max_usage": 0, "failcnt": 0}
    assert memcg["memory"]["limit"] == 1 << 20


def test_harness_when_closed_twice_or_early_then_nothing_happens():
    harness = Harness("v4")
    box = harness.run(["sleep", "1000"], kmem_limit="1M")
    ended = threading.Thread(target=harness.close)
    ended.start()
    ended.join(30)
    harness.close()
    assert box.wait() == 137
    assert not Path(f"/proc/{box.running.guard_pid}").exists()


OWNER = """
import sys, time
from kmem_harness import Harness
harness = Harness("v4")
box = harness.run(["sh", "-c", "sleep 1000 & sleep 1000"], kmem_limit="1M")
print(harness.controller.pid, harness.controller.directory, flush=True)
time.sleep(1000)
"""


def test_owner_when_killed_then_controller_and_boxes_go_too():
    root = str(Path(sys.modules["kmem_harness"].__file__).parent.parent)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert owner.stdout is not None
    with owner:
        controller, directory = owner.stdout.readline().split()
        family = descendants(owner.pid)
        assert int(controller) in family
        owner.kill()
    until(lambda: not Path(directory).exists(), 2, "the directory is left")
    until(lambda: not any(map(lives, family)), 2, "processes are left")


def test_account_when_two_close_it_at_once_then_it_is_gone_for_whoever_is_told(
    harness: Harness,
) -> None:
    """The second may be the thread that an engine tells of the container's removal."""
    left = []

    def close(box: Box, together: threading.Barrier) -> None:
        together.wait(10)
        box.close_account()
        left.extend(path for path in harness.controller.children("/local") if path == box.name)

    with ThreadPoolExecutor(2) as pool:
        for number in range(100):
            spec = BoxSpec(f"twice-{number}", ("true",))
            box = harness.open_account(spec, harness.runtime("local"), kmem_limit="1M")
            together = threading.Barrier(2)
            for closing in [pool.submit(close, box, together) for _ in range(2)]:
                closing.result(30)
    assert left == []
