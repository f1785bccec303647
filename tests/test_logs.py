"""What is logged, and what is shown of it."""

from __future__ import annotations

import json
import logging

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
