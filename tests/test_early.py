"""The controller of a run starts before the command line is imported, where it will be wanted."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from kmem_harness import early
from kmem_harness.controller.owner.client import Controller
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import DEFAULT_PROFILE

OWN_FAILURE = 125


@pytest.fixture
def directory(monkeypatch):
    """Give where controllers have their directories; a socket's path has to be short."""
    for name in ("KMEM_HARNESS_CONTROLLER", "KMEM_HARNESS_FAST_PATH"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="kt", dir="/tmp") as made:
        monkeypatch.setenv("XDG_RUNTIME_DIR", made)
        yield Path(made)
        early.discard()


@pytest.mark.parametrize(
    "words", [["run", "true"], ["run", "--kmem-limit=8M", "--", "sh", "-c", "exit 3"]]
)
def test_early_start_when_a_run_will_want_it_then_is_taken_once(words, directory):
    early.start_for(words)
    assert early.take("v4") is None
    started = early.take(DEFAULT_PROFILE)
    assert started is not None
    assert early.take(DEFAULT_PROFILE) is None
    with closing(Controller(started.kernel, started)) as controller:
        assert controller.pid == started.process.pid
        assert "memory.kmem.limit_in_bytes" in controller.ls("/")
    assert started.process.returncode == 0
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["demo", "run"],
        ["run", "--help"],
        ["run", "--kernel", "v4", "true"],
        ["run", "--kernel=v4", "true"],
        ["run", "--controller=docker://kmem", "true"],
    ],
    ids=" ".join,
)
def test_early_start_when_it_would_not_be_wanted_then_nothing_starts(words, directory):
    early.start_for(words)
    assert early.take(DEFAULT_PROFILE) is None
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("KMEM_HARNESS_CONTROLLER", "docker://kmem"), ("KMEM_HARNESS_FAST_PATH", "on")],
)
def test_early_start_when_the_environment_says_otherwise_then_nothing_starts(
    name, value, directory, monkeypatch
):
    monkeypatch.setenv(name, value)
    early.start_for(["run", "true"])
    assert early.take(DEFAULT_PROFILE) is None
    assert list(directory.iterdir()) == []


def test_start_when_no_directory_can_be_had_then_says_which_were_tried(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 60)
    monkeypatch.setattr("os.access", lambda *_: False)  # as /tmp may be
    early.start_for(["run", "true"])
    assert early.take(DEFAULT_PROFILE) is None
    with pytest.raises(ConfigurationError, match="neither XDG_RUNTIME_DIR nor TMPDIR nor /tmp"):
        Controller(DEFAULT_PROFILE)


def test_early_start_when_nobody_takes_it_then_is_ended_and_leaves_nothing(directory):
    early.start_for(["run", "true"])
    (started,) = early._started
    early.discard()
    assert started.process.returncode == 0
    assert list(directory.iterdir()) == []
    early.discard()  # there is nothing any more


@pytest.mark.parametrize("options", [[], ["--kernel", "v4"]], ids=["default", "another kernel"])
def test_run_when_it_starts_then_starts_one_controller_alone(options, directory):
    code = (
        "import sys\n"
        "def watch(event, arguments):\n"
        "    if event == 'subprocess.Popen' and 'kmem_harness.controller' in str(arguments):\n"
        "        print('started', 'kmem_harness.cli' in sys.modules)\n"
        "sys.addaudithook(watch)\n"
        "from kmem_harness.__main__ import main\n"
        "main()\n"
    )
    words = ["run", "--quiet", *options, "--", "echo", "ran"]
    outcome = subprocess.run(
        [sys.executable, "-u", "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert outcome.stdout == f"started {bool(options)}\nran\n"
    assert list(directory.iterdir()) == []


def test_run_when_its_options_are_unusable_then_nothing_of_the_early_start_is_left(directory):
    outcome = subprocess.run(
        [sys.executable, "-m", "kmem_harness", "run", "--bogus", "--", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == OWN_FAILURE
    assert "No such option" in outcome.stderr
    assert list(directory.iterdir()) == []
