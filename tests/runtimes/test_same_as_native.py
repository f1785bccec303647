"""What a program sees and may do in a box is what it is outside, but for what the guide's table names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kmem_harness.runtimes.local import ISOLATIONS, probe

PROGRAM = Path(__file__).with_name("operations.py")
PYTHON = [sys.executable, "-I", "-S"]
RUN = [sys.executable, "-m", "kmem_harness", "run", "--quiet"]

#: What differs, by isolation and whether we are root: the guide says why.
NAMESPACES = {"sees_who_started_it"}
FILTER = {"io_uring"}
AS_ROOT = {
    "pid": NAMESPACES | FILTER | {"write_a_cgroup"},
    "user": NAMESPACES
    | FILTER
    | {
        "bind_below_1024",
        "raw_socket",
        "packet_socket",
        "negative_nice",
        "real_time_scheduling",
        "mlock_beyond_the_limit",
        "make_device",
        "raise_a_hard_limit",
        "write_a_cgroup",
        "write_a_sysctl",
        "oom_score_lower",
        "user_namespace",
        "capabilities",
        "ping",
        "mount",
    },
    "none": FILTER | {"trace_a_child"},
}
AS_USER = {
    "pid": NAMESPACES | FILTER,
    "user": NAMESPACES
    | FILTER
    | {
        "user_namespace",
        "owner_of_the_root",
        "ids",  # groups that are not ours alone belong to nobody
        "give_a_file_to_a_group_of_ours",
        "give_a_file_away",  # there is nobody to give it to: EINVAL, not EPERM
        "no_new_privs",
        "capabilities",
        "sudo",
        "ping",
        "su_to_nobody",
    },
    "none": FILTER | {"trace_a_child", "no_new_privs", "sudo", "ping", "su_to_nobody"},
}


def as_a_caller():
    """Have what a caller may have: signals ignored and blocked, a umask, a niceness."""
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    os.umask(0o027)
    os.nice(2)


def look(before, directory):
    """Run the program after *before*, with a descriptor more, and give what it said."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [*before, *PYTHON, PROGRAM, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
            env={**os.environ, "LANG": "C", "LC_ALL": "", "NAME": "a value"},
            preexec_fn=as_a_caller,  # noqa: PLW1509 - nobody here has threads
            pass_fds=(reading,),
        )
        out, _ = process.communicate(b"to the end", timeout=60)
    finally:
        os.close(reading)
        os.close(writing)
    assert process.returncode == 0, out
    return json.loads(out)


@pytest.fixture(scope="module")
def natively(tmp_path_factory):
    return look([], tmp_path_factory.mktemp("cwd").parent)


@pytest.mark.parametrize("options", [[], ["--kmem-limit", "64M"]], ids=["free", "limited"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_operations_when_tried_in_a_box_then_come_out_as_outside_of_it(
    isolation, options, natively, tmp_path_factory
):
    why_not = probe(isolation)
    if why_not is not None:
        pytest.skip(f"isolation {isolation!r} cannot be had here: {why_not}")
    boxed = look([*RUN, "--isolation", isolation, *options, "--"], tmp_path_factory.getbasetemp())
    assert boxed.keys() == natively.keys()
    assert len(boxed) >= 40
    different = {name for name in boxed if boxed[name] != natively[name]}
    expected = (AS_ROOT if os.geteuid() == 0 else AS_USER)[isolation]
    more = {name: (natively[name], boxed[name]) for name in sorted(different - expected)}
    assert not more
