"""Run, wait, signal, end: a box behaves as a process does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from kmem_harness import ConfigurationError, UnsupportedHostError
from tests.harness.forker import Forker, python
from tests.support.task_bound import shares_its_task_bound

FREE_AND_LIMITED = pytest.mark.parametrize("limit", [None, "1M"], ids=["free", "limited"])


@FREE_AND_LIMITED
@pytest.mark.parametrize(
    ("command", "status", "signalled"),
    [
        ("exit 0", 0, None),
        ("exit 7", 7, None),
        ("exit 255", 255, None),
        ("kill -TERM $$", 143, signal.SIGTERM),
        ("kill -KILL $$", 137, signal.SIGKILL),
        ("kill -SEGV $$", 139, signal.SIGSEGV),
        ("exit 137", 137, None),
    ],
)
def test_wait_when_target_ends_then_gives_its_status(limit, command, status, signalled, harness):
    with harness.run(["sh", "-c", command], kmem_limit=limit) as box:
        given = box.wait(timeout=30)
        assert given == status
        assert given.exit_code == status
        assert given.signal == signalled
        assert box.wait() is given is box.status
        report = box.report()
        assert (report["exit_code"], report["signal"]) == (status, signalled)


@FREE_AND_LIMITED
def test_wait_when_time_is_up_then_box_goes_on(limit, harness):
    with harness.run(["sleep", "1000"], kmem_limit=limit) as box:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"0\.05 s"):
            box.wait(timeout=0.05)
        with pytest.raises(TimeoutError):
            box.wait(timeout=0)
        assert time.monotonic() - began < 2
        assert box.status is None
        assert box.report()["exit_code"] is None
        box.kill()
        assert box.wait() == 137
        assert box.status.signal == signal.SIGKILL
        box.kill()


@FREE_AND_LIMITED
def test_stop_when_target_heeds_sigterm_then_ends_with_its_own_status(limit, harness):
    command = ["sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"]
    with harness.run(command, kmem_limit=limit, stdout=subprocess.PIPE) as box:
        assert box.running.stdout.readline() == b"ready\n"
        assert box.stop(grace=20) == 9
        box.running.stdout.close()


def test_stop_when_target_ignores_sigterm_then_is_killed_after_grace(harness):
    command = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"]
    with harness.run(command, kmem_limit="1M", stdout=subprocess.PIPE) as box:
        assert box.running.stdout.readline() == b"ready\n"
        assert box.stop(grace=0.1) == 137
        box.running.stdout.close()


def test_signal_when_sent_then_target_gets_that_one(harness):
    command = ["sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.01; done"]
    with harness.run(command, kmem_limit="1M", stdout=subprocess.PIPE) as box:
        assert box.running.stdout.readline() == b"ready\n"
        box.signal(signal.SIGUSR1)
        assert box.wait(timeout=30) == 5
        box.signal(signal.SIGUSR1)  # nobody is there to get it
        box.running.stdout.close()


@FREE_AND_LIMITED
def test_streams_when_piped_then_pass_untouched(limit, harness):
    pipe = subprocess.PIPE
    command = ["sh", "-c", "cat; echo error >&2"]
    with harness.run(command, kmem_limit=limit, stdin=pipe, stdout=pipe, stderr=pipe) as box:
        text = bytes(range(256)) * 150  # less than a pipe holds
        box.running.stdin.write(text)
        out, err = box.communicate(timeout=30)
        assert (out, err) == (text, b"error\n")
        assert box.wait() == 0


@FREE_AND_LIMITED
def test_environment_and_directory_when_given_then_are_the_targets(limit, harness, tmp_path):
    code = "import json, os; print(json.dumps([os.getcwd(), dict(os.environ)]))"
    environment = {"PATH": os.environ["PATH"], "NAME": "a value", "EMPTY": "", "LC_ALL": "C"}
    options = {"env": environment, "cwd": str(tmp_path), "stdout": subprocess.PIPE}
    with harness.run(python(code), kmem_limit=limit, **options) as box:
        directory, seen = json.loads(box.communicate(timeout=30)[0])
    assert directory == str(tmp_path)
    assert seen == environment


def test_environment_when_not_given_then_is_ours(harness, monkeypatch):
    monkeypatch.setenv("KMEM_TEST_NAME", "ours")
    command = ["sh", "-c", 'test "$KMEM_TEST_NAME" = ours']
    with harness.run(command, kmem_limit="1M") as box:
        assert box.wait(timeout=30) == 0


@FREE_AND_LIMITED
def test_pids_max_when_reached_then_the_kernel_itself_refuses(limit, harness):
    try:
        forker = Forker(harness, kmem_limit=limit, pids_max=10)
    except UnsupportedHostError as error:
        pytest.skip(f"{error}: {error.missing}")
    with forker:
        made, refused = forker.fork(20)
        assert refused == "EAGAIN"
        # Init and the first process are in the bound, too.
        assert made == 8 or shares_its_task_bound()
        assert forker.box.report()["refusals"]["total"] == 0
        forker.finish()


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"kmem_limit": "0"}, ConfigurationError, "limit '0' is below one page"),
        ({"kmem_limit": 0}, ConfigurationError, "limit 0 is below one page"),
        ({"kmem_limit": -2}, ConfigurationError, "limit -2 is below one page"),
        ({"kmem_limit": "-2"}, ConfigurationError, "not a size: '-2'"),
        ({"kmem_limit": "4095"}, ConfigurationError, "limit '4095' is below one page"),
        ({"kmem_limit": "lots"}, ConfigurationError, "not a size: 'lots'"),
        ({"kmem_limit": ""}, ConfigurationError, "not a size: ''"),
        ({"kmem_limit": 8192.5}, ConfigurationError, "not a size: '8192.5'"),
        ({"kmem_limit": "9" * 18 + "G"}, ConfigurationError, "size too large"),
        ({"memory_limit": "lots"}, ConfigurationError, "not a size: 'lots'"),
        ({"kmem_limit": "1M", "memory_limit": "0"}, ConfigurationError, "'0' is below one page"),
        ({"mode": "warn"}, ConfigurationError, "'warn' is not known; known are 'enforce'"),
        (
            {"runtime": "podman"},
            ConfigurationError,
            "'podman' is not known; known are 'docker', 'local'",
        ),
        ({"memcg": "web"}, ConfigurationError, "'web' does not start with '/'; write '/web'"),
        ({"cwd": "/no/such/folder"}, ConfigurationError, "'/no/such/folder' is not a directory"),
        ({"cwd": "/dev/null"}, ConfigurationError, "'/dev/null' is not a directory"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_run_when_an_argument_is_unusable_then_names_it_and_starts_nothing(
    options, error, named, harness, tmp_path
):
    started = tmp_path / "started"
    with pytest.raises(error, match=named):
        harness.run(["touch", str(started)], **options)
    assert not started.exists()
    assert harness.controller.children("/local") == []
    assert not harness.controller.request("boxes")["boxes"]


@pytest.mark.parametrize("limit", ["max", "-1", -1, None])
def test_run_when_limit_is_none_then_is_unlimited(limit, harness):
    with harness.run(["true"], kmem_limit=limit) as box:
        assert box.wait(timeout=30) == 0
        assert box.report()["mode"] == "off"
        assert box.memcg.kmem.limit == -1
