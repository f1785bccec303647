"""What cannot be carried out is refused before anything starts, with the value and the remedy."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.no_seccomp import WithoutSeccomp

if TYPE_CHECKING:
    from tests.support.command_line import CommandLine

OWN_FAILURE = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--kmem-limit", "8Q"], ["8Q", "8MiB"]),
        (["--kmem-limit", "64MB?"], ["64MB?", "8MiB"]),
        (["--kmem-limit", ""], ["''", "8MiB"]),
        (["--kmem-limit", "0"], ["'0'", "max"]),
        (["--memory-limit", "lots"], ["lots", "8MiB"]),
        (["--kernel", "4.4"], ["4.4", "5.10"]),
        (["--kernel", "v4", "--memory-limit", "1M"], ["1048576", "kmem limit"]),
        (["--costs", "/nonexistent.toml"], ["/nonexistent.toml"]),
        (["--memcg", "web"], ["web", "/web"]),
        (["--report", "/nonexistent/report.json"], ["/nonexistent"]),
        (["--events", "/nonexistent/events.jsonl"], ["/nonexistent/events.jsonl"]),
        (["--bogus"], ["--bogus", "for help"]),
        (["--timeout", "soon"], ["soon", "for help"]),
    ],
    ids=" ".join,
)
def test_run_when_an_option_is_unusable_then_names_it_and_the_remedy_and_starts_nothing(
    options: list[str], named: list[str], command_line: CommandLine
) -> None:
    started = command_line.directory / "started"
    outcome = command_line.run(["touch", str(started)], *options)
    assert outcome.status == OWN_FAILURE
    assert all(text in outcome.stderr for text in named)
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""
    assert not started.exists()


def test_run_when_the_environment_names_no_way_to_answer_calls_then_says_which_there_are(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEM_HARNESS_FAST_PATH", "on")
    started = command_line.directory / "started"
    outcome = command_line.run(["touch", str(started)], "--kmem-limit", "1M")
    assert outcome.status == OWN_FAILURE
    assert "KMEM_HARNESS_FAST_PATH='on': 'off' has Python answer every call" in outcome.stderr
    assert "unset it" in outcome.stderr
    assert not started.exists()


@pytest.mark.parametrize("options", [[], ["--kmem-limit", "1M"]], ids=["free", "limited"])
@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program"])
def test_run_when_command_does_not_exist_then_127_and_its_name(
    program: str, options: list[str], command_line: CommandLine
) -> None:
    outcome = command_line.run([program], *options)
    assert outcome.status == NOT_FOUND
    assert program in outcome.stderr
    assert outcome.report == {}


@pytest.mark.parametrize("options", [[], ["--kmem-limit", "1M"]], ids=["free", "limited"])
def test_run_when_command_is_not_executable_then_126_and_its_name(
    options: list[str], command_line: CommandLine
) -> None:
    program = command_line.directory / "plain"
    program.write_text("#!/bin/sh\n")
    outcome = command_line.run([str(program)], *options)
    assert outcome.status == NOT_EXECUTABLE
    assert str(program) in outcome.stderr
    assert "chmod" in outcome.stderr


@pytest.mark.parametrize("options", [[], ["--kmem-limit", "1M"]], ids=["free", "limited"])
@pytest.mark.parametrize(
    ("text", "status", "said"),
    [("#!/no/such/interpreter\n", NOT_FOUND, "No such file"), ("junk\n", NOT_EXECUTABLE, "format")],
    ids=["lost interpreter", "no program"],
)
def test_run_when_file_is_no_program_then_says_so_as_an_engine_would(
    text: str, status: int, said: str, options: list[str], command_line: CommandLine
) -> None:
    """It depended on the C library whether a shell was handed the junk, and one case was silent."""
    program = command_line.directory / "odd"
    program.write_text(text)
    program.chmod(0o755)
    outcome = command_line.run([str(program)], *options)
    assert outcome.status == status
    assert str(program) in outcome.stderr
    assert said in outcome.stderr


def test_run_when_inside_another_box_then_says_that_no_second_listener_can_be_had(
    command_line: CommandLine,
) -> None:
    started = command_line.directory / "started"
    inner = [sys.executable, "-m", "kmem_harness", "run", "--kmem-limit", "1M"]
    outcome = command_line.run([*inner, "--", "touch", str(started)], "--kmem-limit", "8M")
    assert outcome.status == OWN_FAILURE
    assert "second seccomp listener" in outcome.stderr
    assert "run outside" in outcome.stderr
    assert not started.exists()


def test_run_when_the_host_denies_seccomp_then_says_that_and_not_that_somebody_listens(
    command_line: CommandLine,
) -> None:
    started = command_line.directory / "started"
    outcome = command_line.run(
        ["touch", str(started)], "--kmem-limit", "1M", within=WithoutSeccomp()
    )
    assert outcome.status == OWN_FAILURE
    assert "Function not implemented" in outcome.stderr
    assert "Linux 5.5 or later" in outcome.stderr
    assert "second seccomp listener" not in outcome.stderr
    assert not started.exists()


@pytest.mark.parametrize("options", [[], ["--kmem-limit", "1M"]], ids=["free", "limited"])
def test_run_when_target_ends_then_its_status_is_ours(
    options: list[str], command_line: CommandLine
) -> None:
    assert command_line.run(["sh", "-c", "exit 7"], *options).status == 7
    killed = command_line.run(["sh", "-c", "kill -TERM $$"], *options)
    assert killed.status == 128 + 15
    assert killed.report["signal"] in ("SIGTERM", 15)


@pytest.mark.parametrize("options", [[], ["--kmem-limit", "1M"]], ids=["free", "limited"])
def test_run_when_quiet_then_output_is_the_targets_alone(
    options: list[str], command_line: CommandLine
) -> None:
    command = ["sh", "-c", "echo out; echo err >&2"]
    outcome = command_line.run(command, "--quiet", *options)
    assert outcome.stdout == "out\n"
    assert outcome.stderr == "err\n"
    loud = command_line.run(command, *options)
    assert loud.stdout == "out\n"
    first, *rest = loud.stderr.splitlines()
    assert first == "err"
    assert len(rest) == 1


def test_run_when_time_is_up_then_box_is_ended_and_report_says_so(
    command_line: CommandLine,
) -> None:
    command = ["sh", "-c", "sleep 30 & sleep 30"]
    outcome = command_line.run(command, "--kmem-limit", "1M", "--timeout", "0.3")
    assert outcome.status == 128 + 9
    assert outcome.report["timed_out"]
    assert outcome.report["wall_seconds"] < 10
    assert outcome.kmem["usage"] == 0


def test_run_when_the_disk_of_its_report_is_full_then_names_the_report(
    command_line: CommandLine,
) -> None:
    """Files may not grow at all here, which is as good as a full disk, and needs no root."""
    process = command_line.start(
        ["true"],
        *("--kmem-limit", "1M"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    outcome = command_line.finish(process)
    assert outcome.status == 125
    assert "File too large" in outcome.stderr
    assert "report-1.json'" in outcome.stderr
    assert [path.name for path in command_line.directory.iterdir()] == ["run"]
