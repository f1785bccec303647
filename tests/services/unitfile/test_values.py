from __future__ import annotations

import math
import re
import shutil
import signal
import subprocess

import pytest

from kmem_harness.services.unitfile import values
from tests.services.oracle import needs_systemd

SPANS = {
    "5": 5.0,
    "1.5": 1.5,
    "5min 20s": 320.0,
    "5min20s": 320.0,
    "2 h": 7200.0,
    "1y 12month": 31557600.0 + 12 * 2629800.0,
    "500ms": 0.5,
    "3us": 3e-6,
    "1w 2d": 777600.0,
    "5M": 5 * 2629800.0,
    "5m": 300.0,
}


@pytest.mark.parametrize(("text", "seconds"), SPANS.items())
def test_span_when_read_then_units_add_up(text, seconds):
    assert values.parse_seconds(text) == pytest.approx(seconds)


@needs_systemd
@pytest.mark.parametrize("text", SPANS)
def test_span_when_systemd_reads_it_then_it_finds_the_same(text):
    said = subprocess.run(
        [shutil.which("systemd-analyze"), "timespan", text],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    microseconds = int(re.search(r"s: (\d+)", said)[1])
    assert values.parse_seconds(text) == pytest.approx(microseconds / 1e6)


def test_span_when_infinite_or_zero_then_timeouts_never_come():
    assert values.parse_seconds("infinity") == math.inf
    assert values.parse_seconds("0") == 0
    assert values.parse_timeout("0") == math.inf


@pytest.mark.parametrize("text", ["", "5 parsecs", "-1", "1..2", "s", "5min,", "infinity 1"])
def test_span_when_it_is_none_then_the_error_says_how_to_write_one(text):
    with pytest.raises(ValueError, match="not a time span"):
        values.parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        *[("4096", 4096), ("8K", 8192), ("1.5M", 1572864), ("2G", 2 << 30), ("1T", 1 << 40)],
        *[("infinity", -1), ("8MB", 8 << 20)],
    ],
)
def test_memory_when_read_then_the_base_is_1024(text, nbytes):
    assert values.parse_memory(text) == nbytes


def test_memory_when_a_share_then_it_is_of_this_machine():
    assert 0 < values.parse_memory("10%") < values.parse_memory("100%")


@pytest.mark.parametrize("text", ["8Q", "8 apples", "", "-5", "101%", "K"])
def test_memory_when_it_is_none_then_that_is_an_error(text):
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        values.parse_memory(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("TERM", 15), ("9", 9), ("RTMIN+3", signal.SIGRTMIN + 3), ("sigusr1", 10)],
)
def test_signal_when_read_then_by_name_or_number(text, number):
    assert values.parse_signal(text) == number


def test_exit_statuses_when_read_then_names_codes_and_signals_mix():
    found = values.parse_exit_statuses("0 TEMPFAIL 250 SIGKILL EXEC")
    assert found.codes == {0, 75, 250, 203}
    assert found.signals == {9}
    with pytest.raises(ValueError, match="300"):
        values.parse_exit_statuses("300")


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("1024", (1024, 1024)),
        ("1K:infinity", (1024, -1)),
        ("infinity", (-1, -1)),
        ("5min", (300, 300)),
    ],
)
def test_limit_when_read_then_soft_and_hard_may_differ(text, pair):
    assert values.parse_limit(text) == pair


def test_tasks_when_none_could_be_then_that_is_an_error():
    assert values.parse_tasks("infinity") == -1
    assert values.parse_tasks("15%") > 100
    with pytest.raises(ValueError, match="at least 1"):
        values.parse_tasks("0")
