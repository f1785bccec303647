"""``kmem-harness services`` as a user runs it, from one terminal and from a second."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kmem_harness.cli import main
from tests.services.oracle import needs_systemd

EXAMPLES = Path(__file__).parents[3] / "containers/services"


class Terminal:
    """A place to run commands in, which shall be empty when all is over."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kmem-cli-")
        self.path = Path(self._folder.name)
        self.run_directory = self.path / "run"
        self.run_directory.mkdir(mode=0o700)
        self.units = self.path / "units"
        self.units.mkdir()
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(self.run_directory), "NO_COLOR": "1"}
        self.started: list[subprocess.Popen[str]] = []

    def words(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "kmem_harness", "services", *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*arguments),
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.words(*arguments),
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def until(self, happened) -> None:
        deadline = time.monotonic() + 30
        while not happened():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        left = [path.name for path in self.run_directory.iterdir()]
        self._folder.cleanup()
        assert left == []


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def read_until(process, words: str) -> list[str]:
    seen = []
    for line in process.stdout:
        seen.append(line.rstrip())
        if words in line:
            return seen
    pytest.fail(f"{words!r} never came: {seen}")


def test_services_when_run_then_a_second_terminal_looks_changes_and_stops(
    terminal, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(terminal.run_directory))

    def second(*arguments: str) -> tuple[int, str]:
        """Be the second terminal: in this process, which is quicker."""
        with pytest.raises(SystemExit) as ended:
            main(["services", *arguments])
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    def status() -> dict[str, dict]:
        return {one["unit"]: one for one in json.loads(second("status", "--json")[1])["units"]}

    (terminal.units / "a.service").write_text(
        "[Service]\nExecStart=/bin/sh -c 'sleep 60 & wait'\nX-KmemMax=1M\nPrivateTmp=yes\n"
    )
    running = terminal.start("run", str(terminal.units), "--report", str(terminal.path / "r.json"))
    seen = read_until(running, "a.service: running")
    assert "a.service: not emulated: PrivateTmp=" in seen
    terminal.until(lambda: status()["a.service"]["tasks"] == 2)
    assert second("set-property", "a.service", "X-KmemMax=2M") == (0, "")
    assert status()["a.service"]["memcg"]["kmem"]["limit"] == 2 << 20
    code, said = second("set-property", "a.service", "Nonsense=2M")
    assert code == 2
    assert "a service or slice takes X-KmemMax=" in said
    assert "a.service: X-KmemMax=2M set" not in second("status")[1]
    assert "X-KmemMax=2M set" in second("status", "a.service")[1]
    assert second("restart", "a.service") == (0, "")
    assert status()["a.service"]["starts"] == 2
    assert second("stop") == (0, "")
    assert running.wait(30) == 0
    report = json.loads((terminal.path / "r.json").read_text())
    assert report["held"] is True
    assert [one["unit"] for one in report["units"]] == ["system.slice", "a.service"]


def test_services_when_the_report_is_a_page_then_it_tells_of_each_start(terminal):
    (terminal.units / "a.service").write_text(
        "[Unit]\nStartLimitBurst=2\n"
        "[Service]\nExecStart=/bin/sh -c 'sleep 0.02; exit 3'\nRestart=always\nRestartSec=0\n"
    )
    page = terminal.path / "r.html"
    outcome = terminal.run("run", str(terminal.units), "--quiet", "--report", str(page))
    assert outcome.returncode == 1
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    report = json.loads(found[1])
    unit = next(one for one in report["units"] if one["unit"] == "a.service")
    assert [one["main_ended"]["code"] for one in unit["activations"]] == [3, 3]
    # The second may be over between two looks: what it used is not more than the first did.
    assert max(unit["activations"][0]["timeline"]["usage"]) > 0
    assert all("timeline" in one for one in unit["activations"])
    for shown in ("a.service start 1", "a.service start 2", "exit 3", "start-limit-hit"):
        assert shown in text


def test_services_when_the_report_cannot_be_written_then_nothing_starts(terminal):
    (terminal.units / "a.service").write_text("[Service]\nExecStart=/bin/touch %t/ran\n")
    for name, said in (("r.xml", "ends in .json or in .html"), ("no/r.json", "make the folder")):
        outcome = terminal.run("run", str(terminal.units), "--report", str(terminal.path / name))
        assert outcome.returncode == 2
        assert said in outcome.stderr


def test_services_when_one_fails_then_the_exit_status_says_so(terminal):
    (terminal.units / "a.service").write_text("[Service]\nExecStart=/bin/false\n")
    outcome = terminal.run("run", str(terminal.units), "--quiet")
    assert outcome.returncode == 1
    assert outcome.stdout.startswith("unit ")
    assert "failed (exit-code)" in outcome.stdout


def test_services_when_told_to_end_then_they_stop_in_order(terminal):
    (terminal.units / "a.service").write_text("[Service]\nExecStart=/bin/sleep 60\n")
    (terminal.units / "b.service").write_text(
        "[Unit]\nAfter=a.service\n[Service]\nExecStart=/bin/sleep 60\n"
    )
    running = terminal.start("run", str(terminal.units))
    read_until(running, "b.service: running")
    running.send_signal(signal.SIGINT)
    rest, _ = running.communicate(timeout=30)
    assert rest.index("b.service: dead") < rest.index("a.service: dead")
    assert running.returncode == 0


def test_services_when_told_to_end_twice_then_nobody_is_waited_for(terminal):
    (terminal.units / "a.service").write_text(
        "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.1; done'\n"
    )
    running = terminal.start("run", str(terminal.units))
    read_until(running, "up")
    running.send_signal(signal.SIGINT)
    read_until(running, "stop-sigterm")
    running.send_signal(signal.SIGINT)
    rest, _ = running.communicate(timeout=30)
    assert "failed (signal)" in rest
    assert running.returncode == 1


def test_services_when_the_controller_is_killed_then_the_command_ends_with_125(terminal):
    (terminal.units / "a.service").write_text(
        "[Service]\nX-KmemMax=4M\nExecStart=/bin/sh -c 'echo up; sleep 60'\n"
    )
    running = terminal.start("run", str(terminal.units))
    read_until(running, "up")
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    (controller,) = (
        pid
        for pid in children
        if str(terminal.run_directory) in Path(f"/proc/{pid}/cmdline").read_text()
        and "kmem-init" not in Path(f"/proc/{pid}/cmdline").read_text()
    )
    os.kill(int(controller), signal.SIGKILL)
    rest, _ = running.communicate(timeout=30)
    assert running.returncode == 125
    assert "the controller died" in rest


def test_services_when_the_command_is_killed_then_nothing_is_left(terminal):
    (terminal.units / "a.service").write_text(
        "[Service]\nType=notify\nNotifyAccess=all\nTimeoutStartSec=infinity\n"
        "ExecStart=/bin/sh -c 'echo up; exec sleep 12345'\n"
    )
    running = terminal.start("run", str(terminal.units))
    read_until(running, "up")
    running.kill()
    running.wait()
    terminal.until(lambda: not list(terminal.run_directory.iterdir()))


def complaint(capsys, *arguments: str) -> tuple[int, str]:
    """Run a command that fails before it starts anything, in this process."""
    with pytest.raises(SystemExit) as ended:
        main(["services", *arguments])
    said = capsys.readouterr()
    assert said.out == ""
    return ended.value.code, said.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Service\nExecStart=/bin/true\n", "a.service:1: invalid section header"),
        (
            "[Service]\nExecStart=/nonexistent/x\n",
            "a.service:2: '/nonexistent/x' cannot be executed",
        ),
        (
            "[Service]\nExecStart=/bin/echo %Q\n",
            "a.service:2: ExecStart='%Q': unknown specifier '%Q'",
        ),
        ("[Service]\nExecStart=/bin/true\nX-KmemMax=10\n", "a.service:3: X-KmemMax='10' is below"),
    ],
)
def test_services_when_a_unit_is_wrong_then_nothing_starts(tmp_path, capsys, text, words):
    (tmp_path / "a.service").write_text(text)
    status, said = complaint(capsys, "run", str(tmp_path))
    assert status == 2
    assert words in said
    assert len(said.splitlines()) == 1


def test_services_when_systemd_would_warn_then_it_is_told_and_all_runs(tmp_path, capsys):
    (tmp_path / "a.service").write_text(
        "nothing=1\n[Service]\nExecStart=/bin/echo ran\nnonsense\nRestart=sometimes\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["services", "run", str(tmp_path)])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "a.service  ran" in said
    for words in (
        "a.service:1: 'nothing=1' stands outside of a section",
        "a.service:4: missing '=' in 'nonsense'",
        "a.service:5: Restart='sometimes' is not known",
    ):
        assert f"a.service: {tmp_path}/{words}" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run",), "Missing argument"),
        (("run", "nowhere.service"), "was not found"),
        (("run", "nosuch"), "unit 'nosuch.service' was not found"),
        (("run", ".", "-p", "a.service"), "is not UNIT:KEY=VALUE"),
        (("run", ".", "-p", "zz.service:X-KmemMax=1M"), "no service is among them"),
        (("run", "what?"), "is not a unit name"),
        (("status",), "no services of yours are running"),
        (("set-property", "a.service"), "Missing argument"),
    ],
)
def test_command_line_when_wrong_then_it_says_what_to_do(
    tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.setattr("kmem_harness.services.door.control.running", list)  # none but our own
    status, said = complaint(
        capsys, *(str(tmp_path) if word == "." else word for word in arguments)
    )
    assert status == 2
    assert words in said


@needs_systemd
def test_examples_when_systemd_verifies_them_then_it_has_nothing_to_say():
    units = [str(path) for path in EXAMPLES.iterdir() if path.suffix != ".py"]
    outcome = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
