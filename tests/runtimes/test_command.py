"""What is a command that can be run, found out before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kmem_harness import ConfigurationError
from kmem_harness.runtimes.command import (
    CommandNotExecutableError,
    CommandNotFoundError,
    check_command,
)


@pytest.fixture
def folder(tmp_path):
    """Give a folder with a program, a plain file, a folder and a dangling link in it."""
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o755)
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to("program")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (["sh"], None),
        (["/bin/sh", "-c", "", "with space", "ä"], None),
        (("sh",), None),
        ([Path("/bin/sh"), "-c"], None),
        (["program"], "{folder}"),
        (["program"], "/nonexistent:{folder}"),
        (["program"], "{folder}/plain:{folder}"),
        (["linked"], "{folder}"),
        (["./program"], "/nonexistent"),
        (["{folder}/program"], ""),
        (["program"], ""),  # an empty entry is the current directory
    ],
)
def test_command_when_it_can_be_executed_then_is_given_back_as_words(command, path, folder):
    words = [str(word).format(folder=folder) for word in command]
    given = [type(old)(new) for old, new in zip(command, words, strict=True)]
    env = None if path is None else {"PATH": path.format(folder=folder)}
    assert check_command(given, env, str(folder)) == tuple(words)


@pytest.mark.parametrize(
    ("command", "error", "code", "named"),
    [
        (["no-such-program"], CommandNotFoundError, 127, "in no directory of PATH"),
        (["./no-such-program"], CommandNotFoundError, 127, "no such file"),
        (["/no/such/program"], CommandNotFoundError, 127, "no such file"),
        (["dangling"], CommandNotFoundError, 127, "in no directory of PATH"),
        (["folder"], CommandNotFoundError, 127, "in no directory of PATH"),
        ([""], CommandNotFoundError, 127, "in no directory of PATH"),
        (["plain"], CommandNotExecutableError, 126, "Permission denied"),
        (["./plain"], CommandNotExecutableError, 126, "chmod"),
        (["./folder"], CommandNotExecutableError, 126, "Is a directory"),
        (["/"], CommandNotExecutableError, 126, "Is a directory"),
    ],
)
def test_command_when_it_cannot_be_executed_then_says_why_as_a_shell_would(
    command, error, code, named, folder
):
    with pytest.raises(error, match=named) as caught:
        check_command(command, {"PATH": str(folder)}, str(folder))
    assert caught.value.exit_code == code
    assert repr(command[0]) in str(caught.value)
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("sh -c true", r"not a list of words"),
        ([], r"not a list of words"),
        (["sh", "a\0b"], r"NUL byte"),
        (["sh", 5], r"no text"),
        (["sh", None], r"no text"),
        ([b"sh"], r"holds bytes"),
    ],
)
def test_command_when_it_is_no_list_of_text_then_configuration_error(command, named):
    with pytest.raises(ConfigurationError, match=named) as caught:
        check_command(command)
    assert not isinstance(caught.value, (CommandNotFoundError, CommandNotExecutableError))


def test_command_when_environment_has_no_path_then_the_default_one_is_searched():
    assert check_command(["sh"], {}) == ("sh",)
    with pytest.raises(CommandNotFoundError):
        check_command(["sh"], {"PATH": "/nonexistent"})


def test_command_when_no_environment_is_given_then_ours_is_searched(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    assert check_command(["program"]) == ("program",)
