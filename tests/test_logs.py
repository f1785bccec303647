"""What is logged, and what is shown of it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest

from kmem_harness.logs import logger, show_logs


@pytest.fixture(autouse=True)
def _as_it_was():
    log = logging.getLogger("kmem_harness")
    before = (log.handlers[:], log.level, log.propagate)
    yield
    log.handlers[:], log.level, log.propagate = before
    show_logs_form()


def show_logs_form():
    from kmem_harness import logs

    logs._form.as_json = False


def test_show_logs_when_json_then_each_line_is_an_object_with_its_level_and_time(capsys):
    show_logs("info", as_json=True)
    logger().info("container.opened", limit=8)
    logger().debug("container.counted")
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert said["event"] == "container.opened"
    assert said["limit"] == 8
    assert said["level"] == "info"
    assert "timestamp" in said


def test_show_logs_when_text_then_level_and_event_come_first(capsys):
    show_logs("warning", as_json=False)
    logger().info("container.opened", limit=8)
    logger().warning("container.lost", container="a b")
    (line,) = capsys.readouterr().err.splitlines()
    assert " WARNING event='container.lost' container='a b'" in line


def run(*words, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "kmem_harness", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize(
    ("before", "after", "environment"),
    [
        ((), ("--log-level", "info", "--log-json"), {}),
        (("--log-level=info", "--log-json"), (), {}),
        ((), (), {"KMEM_HARNESS_LOG": "info,json"}),
        ((), ("--log-json",), {"KMEM_HARNESS_LOG": "error"}),
    ],
    ids=["option", "before the command", "environment", "option over environment"],
)
def test_run_when_logs_are_asked_for_then_says_what_became_of_the_box(before, after, environment):
    done = run(*before, "run", *after, "--quiet", "--", "sh", "-c", "exit 3", **environment)
    assert done.returncode == 3
    events = {one["event"]: one for one in map(json.loads, done.stderr.splitlines())}
    assert events["box.ended"]["reason"] == "exit"
    assert events["box.ended"]["exit_code"] == 3
    assert {"container.created", "container.started", "container.removed"} <= events.keys()


def test_run_when_no_logs_are_asked_for_then_nothing_of_them_is_imported():
    code = (
        "import sys; from kmem_harness import Harness\n"
        "with Harness() as h: h.run(['true'], kmem_limit='1M').wait(timeout=30)\n"
        "print(sorted({'structlog', 'tenacity', 'logging', 'click'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_variable_when_it_means_nothing_then_is_an_error_that_says_what_would_do():
    done = run("run", "--", "true", KMEM_HARNESS_LOG="loud")
    assert done.returncode == 125
    assert "KMEM_HARNESS_LOG='loud' is not understood; give one of debug" in done.stderr
