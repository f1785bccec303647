"""One service at a time, as systemd.service(5) describes it. Real boxes, real processes."""

from __future__ import annotations

import asyncio

import pytest


def test_simple_service_when_stopped_then_it_gets_sigterm_and_its_children_too(stage):
    async def script(stage):
        assert await stage.started
        await stage.until(lambda: {"up", "ready"} <= set(stage.lines("a.service")))
        await stage.manager.stop(["a.service"])

    found = stage.play(
        {
            "a.service": 'ExecStart=/bin/sh -c \'(trap "echo child; exit" TERM; echo ready; '
            'while :; do sleep 0.02; done) & trap "echo main; exit 0" TERM; echo up; wait; wait\'\n'
        },
        script,
    )["a.service"]
    assert {"child", "main"} <= set(stage.lines("a.service"))
    assert (found["state"], found["result"]) == ("dead", "success")
    assert found["main_ended"] == {"code": 0, "signal": None, "core": False}


def test_commands_when_run_in_turn_then_their_variables_are_systemds(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    stage.write({"env": "FROM_FILE='x y'\nTWO=file\n"})
    (stage.folder / "env").write_text("FROM_FILE='x y'\nTWO=file\n")
    found = stage.play(
        {
            "a.service": "Environment=ONE=1 'TWO=2 words'\n"
            "EnvironmentFile=%Y/env\nEnvironmentFile=-/nonexistent\n"
            "UnsetEnvironment=ONE\nRuntimeDirectory=a b/c\nStateDirectory=st\n"
            "ExecStartPre=/bin/echo $TWO ${FROM_FILE} <${ONE}>\n"
            'ExecStartPre=-/bin/sh -c "exit 9"\n'
            "ExecStartPre=/bin/sh -c 'echo $RUNTIME_DIRECTORY; test -d $STATE_DIRECTORY && pwd'\n"
            "ExecStart=/bin/sh -c 'exit 7'\n"
            "ExecStop=/bin/echo never\n"
            "ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS $${#INVOCATION_ID}'\n"
        },
        script,
        "a.service",
    )["a.service"]
    base = stage.directories.base
    assert stage.lines("a.service") == [
        "file x y <>",
        f"{base}/run/a:{base}/run/b/c",
        "/",
        "exit-code exited 7 32",
    ]
    assert found["result"] == "exit-code"
    assert found["main_ended"] == {"code": 7, "signal": None, "core": False}


def test_start_pre_when_it_fails_then_the_service_never_starts(stage):
    async def script(stage):
        assert not await stage.started

    stage.play(
        {
            "a.service": "ExecStartPre=/bin/false\nExecStart=/bin/echo no\nExecStop=/bin/echo no\n"
            "ExecStopPost=/bin/echo post $SERVICE_RESULT\n"
        },
        script,
    )
    assert stage.lines("a.service") == ["post exit-code"]


def test_oneshot_when_it_remains_then_it_is_active_until_stopped(stage):
    async def script(stage):
        assert await stage.started
        assert stage.manager.members["a.service"].state.value == "exited"

    found = stage.play(
        {
            "a.service": "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/echo one\n"
            "ExecStart=/bin/echo two\nExecStop=/bin/echo stop\n"
        },
        script,
    )
    assert stage.lines("a.service") == ["one", "two", "stop"]
    assert found["a.service"]["result"] == "success"


NOTIFY = "/usr/bin/env python3 %Y/notify.py"
NOTIFY_PROGRAM = """
import os, socket, sys, time, signal
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for word in sys.argv[1:]:
    if word.startswith("sleep="):
        time.sleep(float(word[6:]))
    elif word.startswith("exit="):
        os._exit(int(word[5:]))
    elif word == "fork":
        if os.fork():
            time.sleep(60)
        word = f"MAINPID={os.getpid()}"
        s.sendto(word.encode(), os.environ["NOTIFY_SOCKET"])
    elif word == "hup":
        def again(*_):
            s.sendto(b"RELOADING=1", os.environ["NOTIFY_SOCKET"])
            print("reloaded", flush=True)
            s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
        signal.signal(signal.SIGHUP, again)
    else:
        s.sendto(word.encode(), os.environ["NOTIFY_SOCKET"])
print("serving", flush=True)
while True:
    time.sleep(0.02)
"""


@pytest.fixture
def notifier(stage):
    (stage.folder / "notify.py").write_text(NOTIFY_PROGRAM)
    return stage


def test_notify_service_when_it_says_ready_then_those_after_it_start(notifier):
    async def script(stage):
        assert await stage.started
        assert stage.manager.describe("a.service")["status"] == "all well"

    notifier.play(
        {
            "a.service": f"Type=notify\nExecStart={NOTIFY} sleep=0.1 'STATUS=all well' READY=1\n"
            "ExecStartPost=/bin/echo post\n",
            "b.service": "[Unit]\nAfter=a.service\n[Service]\nExecStart=/bin/sleep 60\n",
        },
        script,
        "a.service",
        "b.service",
    )
    order = [(one.unit, one.text) for one in notifier.journal.entries]
    assert order.index(("a.service", "running")) < order.index(("b.service", "running"))
    assert "post" in notifier.lines("a.service")


def test_notify_service_when_it_ends_unready_then_that_breaks_the_protocol(notifier):
    async def script(stage):
        assert not await stage.started

    found = notifier.play({"a.service": "Type=notify\nExecStart=/bin/true\n"}, script, "a.service")
    assert found["a.service"]["result"] == "protocol"


@pytest.mark.parametrize(
    ("extend", "state"), [("", "failed"), ("EXTEND_TIMEOUT_USEC=20000000", "running")]
)
def test_notify_service_when_slow_then_only_an_extension_saves_it(notifier, extend, state):
    async def script(stage):
        assert await stage.started == (state == "running")
        assert stage.manager.members["a.service"].state.value == state

    found = notifier.play(
        {
            "a.service": "Type=notify\nTimeoutStartSec=1s\n"
            f"ExecStart={NOTIFY} {extend or 'X=1'} sleep=1.2 READY=1\n"
        },
        script,
        "a.service",
    )
    assert found["a.service"]["result"] == ("success" if extend else "timeout")


def test_main_process_when_it_names_another_then_that_one_counts(notifier):
    async def script(stage):
        assert await stage.started
        first = stage.manager.members["a.service"].service.main_pid
        await stage.until(lambda: "serving" in stage.lines("a.service"))
        assert first > 0

    found = notifier.play(
        {"a.service": f"Type=notify\nNotifyAccess=all\nExecStart={NOTIFY} fork READY=1\n"},
        script,
        "a.service",
    )
    assert found["a.service"]["result"] == "success"


def test_watchdog_when_it_is_not_fed_then_the_service_is_aborted(notifier):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = notifier.play(
        {"a.service": f"Type=notify\nWatchdogSec=0.3\nExecStart={NOTIFY} READY=1 WATCHDOG=1\n"},
        script,
        "a.service",
    )["a.service"]
    assert found["result"] == "watchdog"
    assert found["main_ended"]["signal"] == 6


def test_reload_when_asked_then_the_command_runs_and_the_service_stays(notifier):
    async def script(stage):
        assert await stage.started
        assert await stage.manager.reload(["a.service", "b.service"])
        assert stage.manager.members["a.service"].state.value == "running"
        await stage.until(lambda: "reloaded" in stage.lines("b.service"))

    notifier.play(
        {
            "a.service": "ExecStart=/bin/sleep 60\nExecReload=/bin/sh -c 'kill -0 $MAINPID && echo again'\n",
            "b.service": f"Type=notify-reload\nExecStart={NOTIFY} hup READY=1\n",
        },
        script,
        "a.service",
        "b.service",
    )
    assert notifier.lines("a.service") == ["again"]


def test_forking_service_when_it_lets_go_then_its_main_process_is_found(stage):
    async def script(stage):
        assert await stage.started
        assert stage.manager.members["a.service"].service.main_pid > 0
        assert stage.manager.members["b.service"].service.main_pid > 0
        await stage.until_state("b.service", "failed")

    found = stage.play(
        {
            "a.service": "Type=forking\nExecStart=/bin/sh -c 'sleep 60 & exit 0'\n",
            "b.service": "Type=forking\nPIDFile=%t/b.pid\n"
            "ExecStart=/bin/sh -c '(sleep 0.2; exit 3) & echo $$! > %t/b.pid; sleep 60 & exit 0'\n",
        },
        script,
    )
    assert found["a.service"]["result"] == "success"
    assert found["b.service"]["main_ended"] == {"code": 3, "signal": None, "core": False}


def test_restart_when_it_keeps_failing_then_the_start_limit_ends_it(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play(
        {
            "a.service": "[Unit]\nStartLimitIntervalSec=60\nStartLimitBurst=3\nOnFailure=b.service\n"
            "[Service]\nExecStart=/bin/sh -c 'echo run; exit 1'\nRestart=on-failure\nRestartSec=20ms\n",
            "b.service": "Type=oneshot\nExecStart=/bin/echo told\n",
        },
        lambda stage: _both(stage, script),
        "a.service",
    )
    assert found["a.service"]["result"] == "start-limit-hit"
    assert found["a.service"]["starts"] == 3
    assert stage.lines("a.service") == ["run"] * 3
    assert stage.lines("b.service") == ["told"]


async def _both(stage, script):
    await script(stage)
    await stage.until(lambda: stage.lines("b.service"))


def test_restart_when_an_exit_status_prevents_it_then_it_stays_down(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play(
        {
            "a.service": "ExecStart=/bin/sh -c 'exit 255'\nRestart=always\n"
            "RestartPreventExitStatus=255\n"
        },
        script,
    )["a.service"]
    assert (found["starts"], found["result"]) == (1, "exit-code")


STUBBORN = "/bin/sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.05; done'"


def test_stop_when_sigterm_is_ignored_then_sigkill_follows(stage):
    async def script(stage):
        await stage.until(lambda: "up" in stage.lines("a.service"))
        await stage.manager.stop(["a.service"])

    found = stage.play({"a.service": f"ExecStart={STUBBORN}\nTimeoutStopSec=200ms\n"}, script)
    assert found["a.service"]["result"] == "timeout"
    assert "stop-sigterm timed out" in stage.told("a.service")


def test_kill_mode_when_mixed_then_the_rest_is_killed_once_the_main_one_is_gone(stage):
    async def script(stage):
        await stage.until(lambda: {"up", "ready"} <= set(stage.lines("a.service")))
        await stage.manager.stop(["a.service"])

    found = stage.play(
        {
            "a.service": 'KillMode=mixed\nExecStart=/bin/sh -c \'(trap "echo never" TERM; echo ready; '
            'while :; do sleep 0.02; done) & trap "echo main; exit" TERM; echo up; wait\'\n'
        },
        script,
    )
    assert sorted(stage.lines("a.service")) == ["main", "ready", "up"]
    assert found["a.service"]["result"] == "success"


def test_runtime_when_it_has_a_most_then_the_service_is_stopped_and_has_failed(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play({"a.service": "ExecStart=/bin/sleep 60\nRuntimeMaxSec=200ms\n"}, script)
    assert found["a.service"]["result"] == "timeout"


def test_exec_service_when_a_step_before_exec_fails_then_its_status_says_which(stage):
    async def script(stage):
        assert not await stage.started

    found = stage.play(
        {"a.service": "Type=exec\nWorkingDirectory=/nonexistent\nExecStart=/bin/true\n"}, script
    )
    assert found["a.service"]["main_ended"]["code"] == 200  # CHDIR


def test_condition_when_unmet_then_the_unit_is_skipped_and_nothing_failed(stage):
    async def script(stage):
        assert await stage.started

    found = stage.play(
        {
            "a.service": "[Unit]\nConditionPathExists=!/\n[Service]\nExecStart=/bin/echo no\n",
            "b.service": "ExecCondition=/bin/false\nExecStart=/bin/echo no\n",
        },
        script,
    )
    assert {one["state"] for one in found.values()} == {"dead"}
    assert stage.lines("a.service") == stage.lines("b.service") == []


def test_service_when_it_kills_all_it_can_see_then_it_has_failed_and_nothing_hangs(stage):
    if stage.harness.isolation == "none":
        pytest.skip("kill(-1) is denied to a box without a pid namespace")

    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play({"a.service": "ExecStart=/bin/sh -c 'kill -9 -1; sleep 60'\n"}, script)
    assert found["a.service"]["result"] == "signal"


def test_output_when_sent_to_a_file_then_it_is_there(stage):
    async def script(stage):
        await stage.started

    stage.play(
        {
            "a.service": f"Type=oneshot\nStandardOutput=append:{stage.folder}/out\n"
            "StandardError=null\nExecStart=/bin/sh -c 'echo one; echo two >&2'\n"
        },
        script,
    )
    assert (stage.folder / "out").read_text() == "one\n"
    assert stage.lines("a.service") == []


def test_runtime_directory_when_the_service_ends_then_it_is_gone_and_state_stays(stage):
    async def script(stage):
        assert await stage.started
        await asyncio.sleep(0)
        assert (stage.folder.parent / "host/run/x").stat().st_mode & 0o777 == 0o700

    stage.play(
        {
            "a.service": "ExecStart=/bin/sleep 60\nRuntimeDirectory=x\nRuntimeDirectoryMode=0700\n"
            "StateDirectory=y\n"
        },
        script,
    )
    assert not (stage.folder.parent / "host/run/x").exists()
    assert (stage.folder.parent / "host/lib/y").is_dir()


def test_limits_when_set_then_the_process_has_them(stage):
    async def script(stage):
        await stage.started

    stage.play(
        {
            "a.service": "Type=oneshot\nLimitNOFILE=100:200\nUMask=0027\nNice=15\n"
            "ExecStart=/bin/sh -c 'ulimit -Sn; ulimit -Hn; umask; nice'\n"
        },
        script,
    )
    assert stage.lines("a.service") == ["100", "200", "0027", "15"]


#: Sends a word through each socket that our program in the box has: one of them is its link to us.
USURPER = """
import ctypes, os, socket
libc = ctypes.CDLL(None)
parent = libc.syscall(434, os.getppid(), 0)
for number in range(3, 64):
    copy = libc.syscall(438, parent, number, 0)
    if copy >= 0:
        try:
            link = socket.socket(fileno=copy)
            print("sends", flush=True)  # before: it may not live on
            link.send(b'[[["serial"')
        except OSError:
            pass
"""


def test_service_when_it_speaks_for_our_program_in_its_box_then_it_is_ended_and_all_else_goes_on(
    stage,
):
    """It was not heard, and nobody said so: the service was taken to have ended well."""
    (stage.folder / "usurper.py").write_text(USURPER)
    units = {
        "a.service": "ExecStart=/usr/bin/env python3 %Y/usurper.py\n",
        "b.service": "ExecStart=/bin/sleep 60\n",
    }

    async def script(stage):
        await stage.until_state("b.service", "running")
        # Not merely "running" no more: it may not be so yet.
        await stage.until(lambda: {"failed (signal)", "dead"} & set(stage.told("a.service")))

    found = stage.play(units, script)
    assert found["b.service"]["result"] == "success"
    if "sends" not in stage.lines("a.service"):
        pytest.skip("a process may not have its parent's descriptors here")
    assert found["a.service"]["result"] == "signal"
