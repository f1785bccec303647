"""Others at their worst: thousands who connect and say nothing, and a bomb in the box next door.

The long forms have the promised figures, side by side with an idle controller; they print them.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kmem_harness import Harness
from tests.e2e.conftest import programs
from tests.harness.forker import TASK
from tests.support.bombs import bomb_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.programs import Programs

__all__ = ["programs"]

FLOODER = Path(__file__).with_name("flooder.py")
CLIENTS = 5000
STARTS = 20
DELAY_MS = 100.0
TIMES_IDLE = 10.0
ROUNDS = 5
TIMES = 3000
BOMB_TASKS = 30


@contextmanager
def flood(harness: Harness, count: int) -> Iterator[subprocess.Popen[str]]:
    """Have *count* clients knock at every door, and again whenever they are hung up on."""
    words = [sys.executable, "-I", "-S", str(FLOODER), harness.controller.directory, str(count)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "all\n"
        yield process
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=30)
        assert int(output.split()[-2]) > 0  # so many were hung up on


def start_ms(harness: Harness) -> float:
    """Start a box, and say how long that took."""
    began = time.monotonic()
    with harness.run(["true"], kmem_limit="1M") as box:
        took = (time.monotonic() - began) * 1000
        assert box.wait(timeout=30) == 0
    return took


def test_start_when_clients_flood_every_door_then_none_is_refused(harness: Harness) -> None:
    """They used to push out a shim that came before its box was announced."""
    with flood(harness, 600):
        assert max(start_ms(harness) for _ in range(STARTS)) < 5000


@pytest.mark.slow
def test_start_when_five_thousand_clients_are_silent_then_is_delayed_by_less_than_100_ms(
    harness: Harness,
) -> None:
    idle, stormed, silent = [], [], []
    for _ in range(ROUNDS):
        idle += [start_ms(harness) for _ in range(STARTS)]
        with flood(harness, CLIENTS) as flooder:
            stormed += [start_ms(harness) for _ in range(STARTS)]
            flooder.send_signal(signal.SIGSTOP)
            silent += [start_ms(harness) for _ in range(STARTS)]
    figures = {"idle": idle, "stormed": stormed, "silent": silent}
    medians = {name: statistics.median(times) for name, times in figures.items()}
    sys.stderr.write(f"start, median, ms: {medians}\n")
    assert medians["silent"] - medians["idle"] < DELAY_MS
    assert medians["stormed"] - medians["idle"] < DELAY_MS


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "what"), [("v4", "fork"), ("5.10", "fork"), ("5.10", "call")])
def test_call_when_a_bomb_burns_in_another_box_then_p99_stays_below_ten_times_idle(
    kernel: str, what: str, programs: Programs
) -> None:
    def p99_us(harness: Harness) -> float:
        command = [str(programs["load"]), what, str(TIMES), "latency"]
        with harness.run(command, kmem_limit="8M", stdout=subprocess.PIPE) as box:
            output, _ = box.communicate(timeout=100)
            assert box.wait(timeout=30) == 0
        return int(output.decode().split("p99=")[1].split()[0]) / 1000

    idle, beside = [], []
    limit = BOMB_TASKS * (TASK if kernel == "v4" else 87_233)
    with Harness(kernel) as harness:
        for _ in range(ROUNDS):
            idle.append(p99_us(harness))
            bomb = bomb_command("tree", programs, 10)
            with harness.run(
                bomb, kmem_limit=limit, pids_max=200, stdout=subprocess.DEVNULL
            ) as box:
                while not box.refusals:
                    time.sleep(0.01)  # it ends by itself
                beside.append(p99_us(harness))
                box.kill()
    figures = statistics.median(idle), statistics.median(beside)
    sys.stderr.write(f"{kernel}, {what}, p99, us: idle {figures[0]}, beside a bomb {figures[1]}\n")
    assert figures[1] < TIMES_IDLE * figures[0]
