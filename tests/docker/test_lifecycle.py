"""Start, end, pause, restart, exec: one account for each container, whatever happens to it."""

from __future__ import annotations

import subprocess
import time

import pytest

from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from kmem_harness.runtimes.command import CommandNotFoundError
from tests.docker.conftest import OPTIONS, STACK
from tests.support.peak import until

SLEEPERS = "sleep 100 & sleep 100 & wait"


def tasks_of(box):
    return box.memcg.kmem.usage // STACK


def until_tasks(box, count):
    until(lambda: tasks_of(box) == count, 20, f"{box.name} never had {count} tasks")


def test_run_when_a_limit_is_met_then_fork_fails_and_the_report_says_so(start):
    box = start("sleep 99 & sleep 99 & sleep 99 & sleep 99 & wait", tasks=3)
    assert box.wait(timeout=30) == 2
    assert "Cannot allocate memory" in box.logs().decode()
    report = box.report()
    assert report["runtime"] == "docker"
    assert report["isolation"] == "container"
    assert report["memcg"]["kmem"]["max_usage"] == 3 * STACK
    assert report["kinds"]["task"]["charged"] == report["kinds"]["task"]["uncharged"] == 3
    assert report["refusals"]["first"]["errno"] == "ENOMEM"
    assert report["breaches"] == []
    assert report["container"]["id"] == box.container.id


def test_run_when_the_image_has_a_command_then_it_is_the_default(harness, image):
    with harness.run(image=image, kmem_limit="1M", network_mode="none") as box:
        assert box.wait(timeout=30) == 0
        assert box.logs() == b"own command\n"


def test_run_when_streams_are_asked_for_then_they_are_the_callers(start):
    box = start(
        "cat; echo oops >&2",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    box.running.stdin.write(b"hello")
    assert box.communicate(timeout=30) == (b"hello", b"oops\n")
    assert box.wait(timeout=30) == 0


def test_run_when_there_is_no_limit_then_there_is_no_filter(start):
    box = start("grep Seccomp_filters /proc/self/status", kmem_limit=None)
    assert box.wait(timeout=30) == 0
    assert box.logs().split() == [b"Seccomp_filters:", b"1"]
    assert box.report()["mode"] == "off"


def test_wait_when_the_time_is_over_then_the_container_goes_on(start):
    box = start("sleep 100")
    with pytest.raises(TimeoutError):
        box.wait(timeout=0.1)
    box.kill()
    assert box.status.signal == 9


def test_exec_then_runs_in_the_same_account(start):
    box = start(SLEEPERS)
    until_tasks(box, 2)
    outcome = box.exec(["sh", "-c", "sleep 100 & grep Seccomp_filters /proc/self/status"])
    assert outcome.exit_code == 0
    assert outcome.output.split() == [b"Seccomp_filters:", b"2"]
    until_tasks(box, 3)
    assert box.report()["breaches"] == []


def test_exec_when_the_limit_is_used_up_then_its_forks_fail_too(start):
    box = start(SLEEPERS, tasks=2)
    until_tasks(box, 2)
    assert b"Cannot allocate" in box.exec(["sh", "-c", "sleep 1 & wait"]).output


def test_exec_when_many_come_and_go_then_nothing_adds_up(start):
    box = start(SLEEPERS)
    until_tasks(box, 2)
    for _ in range(10):
        assert box.exec(["sh", "-c", "sleep 0 & wait; sleep 0 & wait"]).exit_code == 0
    until_tasks(box, 2)


def test_unwrapped_exec_then_is_reported_as_a_breach(start, engine):
    box = start(SLEEPERS)
    stranger = engine.client.containers.get(box.container.id)
    stranger.exec_run(["sleep", "30"], detach=True)
    until(lambda: box.report()["breaches"], 20, "the breach was not noticed")
    time.sleep(0.3)
    (breach,) = box.report()["breaches"]
    assert breach["command"] == ["sleep", "30"]
    assert breach["pid"] > 0


def test_restart_then_charges_the_same_account_anew(start):
    box = start(SLEEPERS)
    until_tasks(box, 2)
    first = box.running.init_pid
    box.restart(grace=0)
    assert box.running.init_pid != first
    until_tasks(box, 2)
    assert box.report()["kinds"]["task"]["charged"] == 4


def test_restart_policy_then_every_start_is_under_the_limit(start):
    box = start(
        "sleep 99 & sleep 99 & sleep 99 & exit 1", tasks=2, restart_policy={"Name": "always"}
    )
    until(lambda: box.report()["container"]["restarts"] >= 2, 30, "it was not restarted")
    assert box.report()["refusals"]["total"] >= 2
    assert box.report()["memcg"]["kmem"]["max_usage"] == 2 * STACK


def test_pause_then_calls_wait_and_go_on(start):
    box = start("while true; do sleep 0; done")
    box.pause()
    paused = box.report()["notifications"]
    time.sleep(0.1)  # some fifty calls of a box that runs
    # A call that was on its way may be counted after that.
    assert box.report()["notifications"] <= paused + 1
    box.unpause()
    until(lambda: box.report()["notifications"] > paused + 1, 20, "it did not go on")


def test_stop_then_start_again_with_docker_py(start):
    box = start(SLEEPERS)
    box.stop(grace=0)
    assert box.report()["memcg"]["kmem"]["usage"] == 0
    box.container.start()
    until_tasks(box, 2)
    assert box.report()["exit_code"] is None


def test_init_when_the_engine_adds_one_then_the_command_is_held_all_the_same(start):
    box = start(SLEEPERS, init=True)
    until_tasks(box, 2)
    assert box.report()["breaches"] == []


def test_removed_when_somebody_else_does_it_then_the_account_is_closed(start, engine):
    box = start(SLEEPERS)
    engine.client.containers.get(box.container.id).remove(force=True)
    until(lambda: box.closed, 20, "the removal was not noticed")
    assert box.report()["memcg"]["kmem"]["usage"] == 0
    assert box.wait(timeout=5).signal == 9


def test_run_when_many_share_slices_then_none_exceeds_its_slice(harness, image):
    slices = [harness.memcg(f"/{name}.slice", 6 * STACK) for name in ("a", "b")]
    # The first in each slice holds what it has; each later one ends where it is refused.
    script = "for i in 1 2 3 4; do sleep 99 & done; wait"
    boxes = [
        harness.run(["sh", "-c", script], image=image, memcg=one.child(f"c{i}"), **OPTIONS)
        for i in range(3)
        for one in slices
    ]
    for box in boxes[2:]:
        assert box.wait(timeout=60) == 2
    for one in slices:
        assert one.kmem.max_usage == 6 * STACK
        assert one.kmem.failcnt > 0
    for box in boxes:
        box.close()
    assert [one.kmem.usage for one in slices] == [0, 0]


def test_run_when_the_command_is_not_there_then_says_so(start, harness, image):
    box = start("true", kmem_limit="1M")
    assert box.wait(timeout=30) == 0
    with harness.run(["nosuch"], image=image, kmem_limit="1M", **OPTIONS) as box:
        assert box.wait(timeout=30) == 127
    with pytest.raises(CommandNotFoundError, match="nosuch"):
        harness.run(["nosuch"], image=image, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"image": "no-such-image:x"}, "No such image"),
        ({"image": None, "runtime": "docker"}, "needs an image"),
        ({"pid_mode": "host"}, "pid_mode='host'"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"kmem_limit": "lots"}, "not a size: 'lots'"),
        ({"mode": "warn"}, "'warn' is not known"),
    ],
    ids=str,
)
def test_run_when_an_argument_is_unusable_then_names_it_and_leaves_nothing(
    options, named, harness, image, engine
):
    before = engine.client.containers.list(all=True)
    with pytest.raises(ConfigurationError, match=named):
        harness.run(["true"], **{"image": image, "kmem_limit": "1M", **OPTIONS, **options})
    assert engine.client.containers.list(all=True) == before
    assert "docker" not in harness.controller.ls("/") or not harness.controller.children("/docker")


def test_run_when_seccomp_is_forbidden_then_the_shim_says_so(harness, image):
    profile = (
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["seccomp"], '
        '"action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}'
    )
    with pytest.raises(UnsupportedHostError, match="install filter"):
        harness.run(
            ["true"], image=image, kmem_limit="1M", **OPTIONS, security_opt=[f"seccomp={profile}"]
        )
