"""The command line passes on what its caller gave it: signals, streams, a terminal, a pipe for events."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kmem_harness.runtimes.local import ISOLATIONS, probe
from tests.support.leftovers import lives

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = [sys.executable, "-m", "kmem_harness", "run"]
LIMITED = [*RUN, "--quiet", "--kmem-limit", "64M"]
HAD = [one for one in ISOLATIONS if probe(one) is None]
BOTH = pytest.mark.parametrize("options", [[], ["--kmem-limit", "64M"]], ids=["free", "limited"])


def ignoring(*numbers: int) -> dict[str, object]:
    """Give the options of a Popen whose process ignores these signals."""

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    return {"preexec_fn": ignore}


@BOTH
@pytest.mark.parametrize("isolation", HAD)
def test_run_when_its_caller_ignores_sigchld_then_runs_and_its_target_ignores_it(
    isolation: str, options: list[str]
) -> None:
    command = [
        *RUN,
        "--isolation",
        isolation,
        *options,
        "--",
        "grep",
        "SigIgn",
        "/proc/self/status",
    ]
    done = subprocess.run(
        command, capture_output=True, timeout=30, check=True, **ignoring(signal.SIGCHLD)
    )
    assert int(done.stdout.split()[1], 16) == 1 << (signal.SIGCHLD - 1)


def test_run_when_under_nohup_then_a_hangup_does_not_end_its_target() -> None:
    command = [*LIMITED, "--", "sh", "-c", "echo up; sleep 3; echo finished"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, **ignoring(signal.SIGHUP)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGHUP)
        assert process.stdout.read() == b"finished\n"
        assert process.wait(20) == 0


def test_box_when_sent_any_signal_then_its_target_gets_that_one(tmp_path: Path) -> None:
    from kmem_harness import Harness

    with Harness("v4") as harness, harness.run(["sleep", "1000"]) as box:
        box.signal(signal.SIGSTOP)
        began = time.monotonic()
        while time.monotonic() - began < 5:
            stopped = subprocess.run(
                ["ps", "-o", "state=", "--ppid", str(box.running.init_pid)],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
            if stopped == "T":
                break
            time.sleep(0.01)
        assert stopped == "T"
        box.signal(signal.SIGCONT)
        box.signal(signal.SIGTERM)
        assert box.wait(timeout=20).signal == signal.SIGTERM


@pytest.mark.parametrize("isolation", HAD)
def test_output_when_the_target_closes_it_then_its_reader_sees_the_end_at_once(
    isolation: str,
) -> None:
    command = [
        *LIMITED,
        "--isolation",
        isolation,
        "--",
        "sh",
        "-c",
        "echo x; exec >&-; exec sleep 60",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        began = time.monotonic()
        assert process.stdout is not None
        assert process.stdout.read() == b"x\n"
        assert time.monotonic() - began < 30
        process.terminate()
        process.wait(20)


def test_descriptors_when_the_caller_hands_some_down_then_the_target_alone_has_them() -> None:
    reading, writing = os.pipe()
    script = f"echo through >&{writing}; exec {writing}>&-; exec sleep 60"
    with subprocess.Popen([*LIMITED, "--", "bash", "-c", script], pass_fds=(writing,)) as process:
        os.close(writing)
        began = time.monotonic()
        with os.fdopen(reading, "rb") as ours:
            assert ours.read() == b"through\n"  # to its end: nobody else holds it
        assert time.monotonic() - began < 30
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_when_the_caller_has_closed_them_then_are_closed_for_the_target(
    closed: str, tmp_path: Path
) -> None:
    inner = f"for fd in 0 1 2; do [ -e /proc/$$/fd/$fd ] && echo $fd >> {tmp_path}/%s; done; true"
    natively = f"sh -c '{inner % 'natively'}' {closed}"
    boxed = f"{' '.join(LIMITED)} -- sh -c '{inner % 'boxed'}' {closed}"
    for command in (natively, boxed):
        assert subprocess.run(["sh", "-c", command], timeout=30, check=False).returncode == 0
    seen = [
        path.read_text() if path.exists() else ""
        for path in (tmp_path / "natively", tmp_path / "boxed")
    ]
    assert seen[0] == seen[1]


def test_events_when_nobody_reads_their_pipe_then_do_not_outlast_the_timeout(
    tmp_path: Path,
) -> None:
    pipe = tmp_path / "events"
    os.mkfifo(pipe)
    began = time.monotonic()
    done = subprocess.run(
        [*RUN, "--timeout", "0.5", "--events", str(pipe), "--", "true"],
        stderr=subprocess.PIPE,
        timeout=20,
        check=False,
    )
    assert time.monotonic() - began < 5
    assert done.returncode == 125
    assert b"nobody reads" in done.stderr


def test_events_when_their_pipe_is_read_later_then_all_of_them_come(tmp_path: Path) -> None:
    pipe = tmp_path / "events"
    os.mkfifo(pipe)
    fork = [sys.executable, "-c", "import os\ntry: os.fork()\nexcept OSError: pass"]
    options = ["--kernel", "v4", "--kmem-limit", "4096", "--timeout", "20", "--events", str(pipe)]
    with subprocess.Popen([*RUN, "--quiet", *options, "--", *fork]) as process:
        time.sleep(0.3)
        assert b'"charge.refused"' in pipe.read_bytes()
        assert process.wait(20) == 0


class Terminal:
    """A terminal with an interactive shell on it."""

    def __init__(self) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ["PS1"] = "PROMPT> "
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])  # noqa: S606 - a shell
        self._heard = b""

    def say(self, text: str) -> None:
        """Type *text*."""
        os.write(self._fd, text.encode())

    def hear(self, text: str, seconds: float = 20) -> str:
        """Read up to *text*."""
        end = time.monotonic() + seconds
        while text.encode() not in self._heard:
            ready, _, _ = select.select([self._fd], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{text!r} never came: {self._heard!r}"
            self._heard += os.read(self._fd, 4096)
        before, found, self._heard = self._heard.partition(text.encode())
        return (before + found).decode(errors="replace")

    def close(self) -> None:
        """Hang up."""
        os.close(self._fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Have one, and its shell at its prompt."""
    one = Terminal()
    try:
        one.hear("PROMPT> ")
        yield one
    finally:
        one.close()


@pytest.mark.parametrize("isolation", HAD)
def test_terminal_when_there_is_one_then_it_is_the_targets(isolation: str) -> None:
    run = " ".join([*LIMITED, "--isolation", isolation, "--"])
    with terminal() as shell:
        shell.say(f"{run} sh -c 'test -t 0 && echo u''p; read x </dev/tty; echo got-$x'\n")
        shell.hear("up\r\n")
        shell.say("hello\n")
        shell.hear("got-hello\r\nPROMPT> ".partition("P")[0])
        shell.hear("PROMPT> ")
        # Ctrl-C is the target's, once, and its status is a shell's.
        shell.say(f"{run} sh -c 'trap \"echo in''t\" INT; echo u''p; sleep 2; wait; exit 7'\n")
        shell.hear("up\r\n")
        time.sleep(0.2)
        shell.say("\x03")
        assert shell.hear("PROMPT> ").count("int\r\n") == 1
        shell.say("echo st''atus-$?\n")
        shell.hear("status-7\r\n")
        # Ctrl-Z stops it, and it goes on where it was.
        shell.say(f"{run} sh -c 'echo u''p; sleep 0.6; echo finish''ed'\n")
        shell.hear("up\r\n")
        shell.say("\x1a")
        shell.hear("Stopped")
        shell.hear("PROMPT> ")
        shell.say("fg\n")
        shell.hear("finished\r\n")


def test_terminal_when_a_shell_in_the_box_has_jobs_then_controls_them() -> None:
    with terminal() as shell:
        shell.say(f"{' '.join(LIMITED)} -- bash --norc --noprofile -i\n")
        heard = shell.hear("PROMPT> ")
        assert "no job control" not in heard
        shell.say("sleep 50\n")
        time.sleep(0.3)
        shell.say("\x1a")
        shell.hear("Stopped")
        shell.hear("PROMPT> ")
        shell.say("kill -KILL %1; wait -f %1\n")
        shell.hear("PROMPT> ")
        shell.say("exit 5\n")
        shell.say("echo st''atus-$?\n")
        shell.hear("status-5\r\n")


def test_terminal_when_it_hangs_up_then_nothing_of_the_box_stays() -> None:
    with terminal() as shell:
        shell.say(f"{' '.join(LIMITED)} -- sh -c 'echo pi''d-$$; exec sleep 1000'\n")
        shell.hear("pid-")
        found = subprocess.run(
            ["pgrep", "-f", "kmem-ini[t].*sleep 1000"], capture_output=True, text=True, check=False
        ).stdout.split()
        assert found
    end = time.monotonic() + 15
    while any(lives(int(pid)) for pid in found) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(lives(int(pid)) for pid in found)
