"""Local boxes, in each isolation this host allows: ends, orphans, descriptors, walls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kmem_harness import Harness, UnsupportedHostError
from kmem_harness.runtimes.local import ISOLATIONS, LocalRuntime, best_isolation
from tests.support.peak import until

LIMITS = pytest.mark.parametrize("limit", [None, "1M"], ids=["free", "limited"])
GONE_SECONDS = 2.0


def python(code, *words):
    return [sys.executable, "-I", "-S", "-c", code, *words]


def processes_with(mark):
    """List the processes that have *mark* among their words, except us."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


@contextmanager
def bystander():
    """Have a process of ours beside the box, in our own session; it must be there at the end."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    assert process.poll() is None
    process.kill()
    process.wait()


@LIMITS
@pytest.mark.parametrize(
    ("script", "status", "signalled"),
    [
        ("exit 0", 0, None),
        ("exit 42", 42, None),
        ("kill -TERM $$", 143, signal.SIGTERM),
        ("kill -KILL $$", 137, signal.SIGKILL),
        ("sleep 1000 & exit 3", 3, None),
    ],
)
def test_box_when_target_ends_then_status_is_the_targets(
    limit, script, status, signalled, isolated
):
    with isolated.run(["sh", "-c", script], kmem_limit=limit) as box:
        ended = box.wait(timeout=20)
        assert (ended, ended.signal) == (status, signalled)
        assert box.isolation == isolated.isolation


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP])
def test_signal_when_sent_to_a_box_then_its_target_gets_it(number, isolated):
    code = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(33))\n"
        "print('ready', flush=True)\nwhile True: time.sleep(0.01)"
    )
    with isolated.run(python(code), kmem_limit="1M", stdout=subprocess.PIPE) as box:
        assert box.running.stdout.readline() == b"ready\n"
        box.signal(number)
        assert box.wait(timeout=20) == 33
        box.running.stdout.close()


ORPHANS = """
import os, sys, time
for _ in range(20):
    if os.fork() == 0:
        if os.fork():
            os._exit(0)
        os._exit(0)  # the grandchild: an orphan, and at once a zombie
    os.wait()
init = os.getppid()

def zombies():
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            found += state == "Z" and int(parent) == init
    return found

deadline = time.monotonic() + 2
while zombies() and time.monotonic() < deadline:
    time.sleep(0.005)
sys.exit(zombies())
"""


def test_orphans_when_they_die_then_init_reaps_them(isolated):
    with isolated.run(python(ORPHANS), kmem_limit="1M") as box:
        assert box.wait(timeout=20) == 0
        kinds = box.report()["kinds"]["task"]
        assert (kinds["charged"], kinds["live_peak"] <= 40) == (40, True)


DAEMON = """
import os, signal, sys, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.execvp("sh", ["sh", "-c", "while :; do sleep 1000; done", sys.argv[1]])
    os.wait()
print("ready", flush=True)
sys.stdin.read()
"""


@LIMITS
@pytest.mark.parametrize("how", ["ends", "is killed", "harness closes"])
def test_daemons_when_their_box_ends_then_are_gone(limit, how, isolated):
    mark = f"--kmem-test-{os.getpid()}-{how.replace(' ', '-')}-{limit}"
    harness = Harness("v4", isolation=isolated.isolation) if "closes" in how else isolated
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    box = harness.run(python(DAEMON, mark), kmem_limit=limit, **pipes)
    assert box.running.stdout.readline() == b"ready\n"
    until(lambda: len(processes_with(mark)) == 2 + 1 + 3, 5, "the daemons did not start")
    if how == "ends":
        box.running.stdin.close()
        assert box.wait(timeout=20) == 0
    elif how == "is killed":
        box.kill()
    else:
        harness.close()
    until(lambda: not processes_with(mark), GONE_SECONDS, f"left: {processes_with(mark)}")
    assert box.report()["memcg"]["kmem"]["usage"] == 0
    box.close()
    for pipe in (box.running.stdin, box.running.stdout):
        pipe.close()


@LIMITS
def test_descriptors_when_target_looks_then_has_its_three_and_none_of_ours(limit, isolated):
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    try:
        code = (
            "import json, os\n"
            "print(json.dumps({fd: os.readlink(f'/proc/self/fd/{fd}') for fd in "
            "os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{fd}')}))"
        )
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        with isolated.run(python(code), kmem_limit=limit, **pipes) as box:
            seen = json.loads(box.communicate(timeout=20)[0])
    finally:
        os.close(ours)
        os.close(theirs)
    assert sorted(seen) == ["0", "1", "2"]


def test_kill_of_the_own_group_when_target_does_so_then_nobody_outside_is_hit(isolated):
    with bystander(), isolated.run(["sh", "-c", "sleep 1000 & kill -TERM 0; wait"]) as box:
        ended = box.wait(timeout=20)
        assert ended.signal == signal.SIGTERM


KILL_ALL = """
import errno, os, signal, sys
namespace = os.getpid() < 100 and os.getppid() == 1
# Without a namespace only ask whether it may: should the filter fail, nobody must come to harm.
child = os.fork()
if child == 0:
    signal.pause()
try:
    os.kill(-1, signal.SIGKILL if namespace else 0)
except OSError as error:
    os.kill(child, signal.SIGKILL)
    print(errno.errorcode[error.errno])
else:
    print("killed" if os.waitstatus_to_exitcode(os.wait()[1]) == -9 else "?") if namespace else (
        os.kill(child, signal.SIGKILL), print("might have"))
"""


def test_kill_of_everybody_when_target_does_so_then_nobody_outside_is_hit(isolated):
    with (
        bystander(),
        isolated.run(python(KILL_ALL), kmem_limit="1M", stdout=subprocess.PIPE) as box,
    ):
        out, _ = box.communicate(timeout=20)
        assert box.wait(timeout=20) == 0
    expected = "EPERM" if isolated.isolation == "none" else "killed"
    assert out.decode().strip() == expected


def test_proc_when_box_has_a_namespace_then_shows_the_box_alone(isolated):
    code = (
        "import os; print(os.getpid(), *sorted(int(n) for n in os.listdir('/proc') if n.isdigit()))"
    )
    with isolated.run(python(code), kmem_limit="1M", stdout=subprocess.PIPE) as box:
        own, *listed = map(int, box.communicate(timeout=20)[0].split())
    if isolated.isolation == "none":
        assert os.getpid() in listed
    else:
        assert listed == [1, own]


def proc_mounts():
    # Others may mount other things meanwhile.
    return [line for line in Path("/proc/self/mountinfo").open() if " - proc " in line]


def test_mounts_when_box_has_its_own_then_ours_stay(isolated):
    before = proc_mounts()
    with isolated.run(["sleep", "1000"], kmem_limit="1M"):
        assert proc_mounts() == before
    assert proc_mounts() == before


def test_identity_when_target_asks_then_is_the_user_who_started_it(isolated):
    code = "import os; print(os.geteuid(), os.getegid())"
    with isolated.run(python(code), kmem_limit="1M", stdout=subprocess.PIPE) as box:
        out, _ = box.communicate(timeout=20)
    assert out.decode().split() == [str(os.geteuid()), str(os.getegid())]


@LIMITS
@pytest.mark.parametrize("part", ["guard", "init", "controller"])
def test_box_when_a_part_of_it_is_killed_then_all_of_it_goes(limit, part, isolated):
    mark = f"--kmem-test-{os.getpid()}-{part}-{limit}"
    code = "import os, signal\nfor _ in range(3):\n    os.fork()\nsignal.pause()"
    with Harness("v4", isolation=isolated.isolation) as harness:
        box = harness.run(python(code, mark), kmem_limit=limit)
        # Guard and init have the target's words among theirs.
        until(lambda: len(processes_with(mark)) == 2 + 8, 5, "the target did not start")
        pid = {
            "guard": box.running.guard_pid,
            "init": box.running.init_pid,
            "controller": harness.controller.pid,
        }[part]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not processes_with(mark), GONE_SECONDS, f"left: {processes_with(mark)}")
        with suppress(Exception):
            box.wait(timeout=20)
        assert box.running.wait(timeout=20) == 137


def test_box_when_killed_by_many_at_once_then_ends_once(isolated):
    box = isolated.run(["sleep", "1000"], kmem_limit="1M")
    threads = [threading.Thread(target=box.kill) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert box.wait() == 137
    box.close()


def test_isolation_when_not_chosen_then_is_the_best_there_is():
    assert best_isolation() in ISOLATIONS
    assert LocalRuntime([]).isolation == best_isolation()


@pytest.mark.parametrize("isolation", ["chroot", "", "User"])
def test_isolation_when_unknown_then_says_which_are_known(isolation):
    with pytest.raises(
        UnsupportedHostError, match=f"isolation {isolation!r} cannot be had"
    ) as caught:
        Harness("v4", isolation=isolation)
    for known in ISOLATIONS:
        assert repr(known) in str(caught.value)
    assert "leave it out" in caught.value.remedy
