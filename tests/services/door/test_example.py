"""The example slice, as the README has it: a service turns into a fork bomb, and the others go on."""

from __future__ import annotations

import json
import signal
import statistics
from pathlib import Path

import pytest

from kmem_harness.services.door.run import Options, View, run_services

EXAMPLES = Path(__file__).parents[3] / "containers/services"
STEADY = ("web.service", "worker.service", "cache.service")
BOMB = "turncoat.service"


class Told(View):
    """Every line, with the time it came."""

    def __init__(self) -> None:
        self.entries = []

    def show(self, entry) -> None:
        self.entries.append(entry)
        if (entry.unit, entry.text) == (BOMB, "failed (start-limit-hit)"):
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C: all has been seen

    def of(self, unit: str) -> list[str]:
        return [entry.text for entry in self.entries if entry.unit == unit]

    def latencies(self, unit: str) -> dict:
        return json.loads(next(text for text in self.of(unit) if text.startswith("{")))


def play(seconds: float, *properties: str, units: tuple[str, ...] = ()) -> tuple[dict, Told]:
    told = Told()
    given = []
    for one in properties:
        unit, _, assignment = one.partition(":")
        key, _, value = assignment.partition("=")
        given.append((unit, key, value))
    paths = [str(EXAMPLES / unit) for unit in units] or [str(EXAMPLES)]
    report = run_services(paths, Options(properties=given, seconds=seconds), told)
    return {one["unit"]: one for one in report["units"]}, told


def test_bomb_when_it_goes_off_then_its_own_limit_and_its_start_limit_hold_it():
    found, told = play(60, f"{BOMB}:Environment=FUSE=0.2 FURY=0.6", units=(BOMB,))
    bomb = found[BOMB]
    assert (bomb["state"], bomb["result"], bomb["starts"]) == ("failed", "start-limit-hit", 3)
    assert told.of(BOMB).count("auto-restart (exit-code)") == 3
    assert bomb["main_ended"] == {"code": 1, "signal": None, "core": False}
    assert set(bomb["refusals"]["by"]) == {"/shop.slice/turncoat.service"}
    assert bomb["memcg"]["kmem"]["max_usage"] <= bomb["memcg"]["kmem"]["limit"] == 2 << 20


@pytest.mark.slow
def test_example_when_played_ten_times_then_each_time_ends_the_same():
    outcomes = []
    for _ in range(10):
        found, told = play(100, f"{BOMB}:Environment=FUSE=2 FURY=1")
        bomb = found[BOMB]
        outcomes.append(
            (
                bomb["result"],
                bomb["starts"],
                tuple(bomb["refusals"]["by"]),
                tuple(found[name]["result"] for name in STEADY),
                tuple(found[name]["refusals"]["total"] for name in STEADY),
                tuple(told.latencies(name)["failures"] for name in STEADY),
            )
        )
    assert set(outcomes) == {
        (
            "start-limit-hit",
            3,
            ("/shop.slice/turncoat.service",),
            ("success",) * 3,
            (0,) * 3,
            (0,) * 3,
        )
    }


@pytest.mark.slow
def test_example_when_the_bombs_limit_is_lifted_then_the_slice_refuses():
    found, _ = play(100, f"{BOMB}:X-KmemMax=infinity", f"{BOMB}:Environment=FUSE=2 FURY=1")
    assert set(found[BOMB]["refusals"]["by"]) == {"/shop.slice"}
    assert found["shop.slice"]["memcg"]["kmem"]["max_usage"] <= 8 << 20
    assert found[BOMB]["result"] == "start-limit-hit"


@pytest.mark.slow
def test_neighbours_when_the_bomb_is_refused_then_their_p99_stays_within_twice():
    """Of five pairs of runs, side by side: what else the machine does hits both halves."""
    ratios = {name: [] for name in STEADY}
    for _ in range(5):
        _, calm = play(6, units=STEADY)
        _, storm = play(6, f"{BOMB}:Environment=FUSE=1 FURY=5")
        for name in STEADY:
            ratios[name].append(storm.latencies(name)["p99_us"] / calm.latencies(name)["p99_us"])
    medians = {name: statistics.median(found) for name, found in ratios.items()}
    assert all(median <= 2 for median in medians.values()), ratios
