"""The memory counter holds user memory, too, where a limit binds it; what does not fit is killed."""

from __future__ import annotations

import sys

import pytest

from kmem_harness import Harness

MIB = 1 << 20
GROW = """
import time
held = []
for _ in range(%d):
    held.append(bytearray(1 << 20))
    time.sleep(0.002)
print("survived", flush=True)
"""


@pytest.fixture(scope="module")
def harness():
    with Harness("5.10") as harness:
        yield harness


def grow(harness, mebibytes, **limits):
    command = [sys.executable, "-I", "-S", "-c", GROW % mebibytes]
    with harness.run(command, **limits) as box:
        status = box.wait(timeout=60)
        return status, box.report()


def test_target_when_its_user_memory_meets_the_limit_then_is_killed_with_a_card(harness):
    status, report = grow(harness, 500, memory_limit="48M")
    assert (int(status), status.signal) == (137, 9)
    card = report["refusals"]["first"]
    assert (card["errno"], card["kind"], card["counter"]) == ("OOM", "user-memory", "memory")
    assert card["limit"] == 48 * MIB
    memory = report["memcg"]["memory"]
    assert memory["max_usage"] <= 48 * MIB
    assert memory["failcnt"] > 0
    assert memory["usage"] == 0


def test_target_when_there_is_room_then_its_user_memory_is_counted_and_given_back(harness):
    status, report = grow(harness, 24, memory_limit="256M")
    assert int(status) == 0
    assert report["refusals"]["total"] == 0
    memory, kmem = report["memcg"]["memory"], report["memcg"]["kmem"]
    assert memory["max_usage"] - kmem["max_usage"] == pytest.approx(24 * MIB, rel=0.5)
    assert memory["usage"] == kmem["usage"] == 0


def test_kmem_limit_when_below_the_memory_limit_then_is_a_cap_of_its_own(harness):
    code = "import os\nheld = []\nwhile True: held.append(os.pipe())"
    limits = {"kmem_limit": "512k", "memory_limit": "256M", "kinds": ["pipe"]}
    with harness.run([sys.executable, "-I", "-S", "-c", code], stderr=-3, **limits) as box:
        assert int(box.wait(timeout=60)) == 1
        card = box.refusals[0]
    assert (card.counter, card.kind, card.limit) == ("kmem", "pipe", 512 << 10)
