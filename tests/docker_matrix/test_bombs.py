"""Bombs in containers never have more tasks alive than their limit admits; the kernel counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from kmem_harness.runtimes.engine import EngineError
from tests.docker_matrix.fixtures import STACK
from tests.docker_matrix.images import BUSYBOX
from tests.support.engine import peak_until, pids_peak
from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness import Harness
    from tests.docker_matrix.fixtures import Started
    from tests.support.engine import Engine

#: The first process, which the engine made.
_AROUND = 1
_SHELL_BOMB = "(b(){ b|b& };b) 2>/dev/null & exec sleep 60"


@pytest.mark.parametrize(
    ("bomb", "tasks"),
    [
        ("bomb_tree", 30),
        ("bomb_threads", 100),
        pytest.param("bomb_tree", 60, marks=pytest.mark.slow),
        pytest.param("bomb_tree", 100, marks=pytest.mark.slow),
        pytest.param("bomb_threads", 30, marks=pytest.mark.slow),
        pytest.param("bomb_threads", 60, marks=pytest.mark.slow),
    ],
)
def test_bomb_then_its_limit_is_never_passed(
    bomb: str, tasks: int, start: Callable[..., Started]
) -> None:
    started = start(BUSYBOX, [bomb, "1"], tasks=tasks)
    peak = pids_peak(started.container, 10) - _AROUND
    assert started.box.wait(timeout=30) == 0
    assert 0.9 * tasks <= peak <= tasks
    report = started.box.report()
    assert report["memcg"]["kmem"]["max_usage"] <= tasks * STACK
    assert report["memcg"]["kmem"]["usage"] == 0
    assert report["refusals"]["total"] > 0
    assert "first_errno=none" not in started.lines()[-1]


def test_shell_bomb_then_its_limit_is_never_passed(start: Callable[..., Started]) -> None:
    started = start(BUSYBOX, ["sh", "-c", _SHELL_BOMB], tasks=30)
    peak = peak_until(started.container, lambda: bool(started.box.refusals)) - _AROUND
    assert started.box.wait(timeout=30) == 137
    assert peak <= 30
    assert started.box.memcg.kmem.max_usage <= 30 * STACK


def test_pause_when_bomb_burns_then_stands_still_and_its_neighbour_goes_on(
    start: Callable[..., Started],
) -> None:
    bomb = start(BUSYBOX, ["bomb_tree", "3"], tasks=30)
    until(lambda: bomb.box.report()["refusals"]["total"] > 0, 10, "the bomb met no limit")
    bomb.box.pause()
    alive = bomb.read("pids.current")
    notifications = bomb.box.report()["notifications"]
    neighbour = start(BUSYBOX, ["fork_wait", "500"], tasks=5)
    assert neighbour.box.wait(timeout=30) == 0
    assert neighbour.lines() == ["done=500 failures=0 first_errno=none"]
    assert bomb.read("pids.current") == alive <= 30 + _AROUND
    assert bomb.box.report()["notifications"] - notifications <= 30  # those on their way
    bomb.box.unpause()
    peak = pids_peak(bomb.container, 15) - _AROUND
    assert bomb.box.wait(timeout=30) == 0
    assert peak <= 30
    assert bomb.box.report()["notifications"] > notifications


def test_kill_when_bomb_burns_then_nothing_of_it_is_left(start: Callable[..., Started]) -> None:
    bomb = start(BUSYBOX, ["bomb_tree", "20"], tasks=60)
    until(lambda: bomb.box.report()["refusals"]["total"] > 0, 10, "the bomb met no limit")
    bomb.box.kill()
    until(bomb.is_gone, 5, "a task of the killed container is left")
    assert bomb.box.status == 137
    assert bomb.box.report()["memcg"]["kmem"]["usage"] == 0


def test_kill_when_done_behind_our_back_then_is_noticed(start: Callable[..., Started]) -> None:
    bomb, other = (start(BUSYBOX, ["bomb_tree", "20"], tasks=30) for _ in range(2))
    bomb.container.kill()
    assert bomb.box.wait(timeout=10) == 137
    assert bomb.box.report()["memcg"]["kmem"]["usage"] == 0
    assert other.box.status is None
    assert other.read("pids.current") > 0


def test_remove_when_done_behind_our_back_then_is_noticed_and_others_go_on(
    start: Callable[..., Started],
) -> None:
    removed, other = (start(BUSYBOX, ["bomb_tree", "20"], tasks=30) for _ in range(2))
    removed.container.remove(force=True)
    assert removed.box.wait(timeout=10) != 0
    assert removed.box.report()["memcg"]["kmem"]["usage"] == 0
    with pytest.raises(EngineError, match="removed by somebody else; its report is still there"):
        removed.box.exec(["true"])
    assert removed.box.stop() == removed.box.status
    assert other.read("pids.current") > 0
    removed.box.close()


def test_oom_kill_when_user_memory_is_out_then_status_says_so_and_nothing_is_charged(
    engine: Engine, start: Callable[..., Started]
) -> None:
    command = ["sh", "-c", "sleep 20 & sleep 20 & tail /dev/zero; exit 9"]
    hog = start(BUSYBOX, ["tail", "/dev/zero"], mem_limit="16m", memswap_limit="16m")
    assert hog.box.wait(timeout=30) == 137
    hog.container.reload()
    if engine.name == "docker":  # podman says so on some machines only
        assert hog.container.attrs["State"]["OOMKilled"]
        assert hog.box.report()["container"]["oom_killed"]
    # A child is what dies here; the container goes on, and what the child cost comes back.
    parent = start(BUSYBOX, command, mem_limit="16m", memswap_limit="16m")
    assert parent.box.wait(timeout=30) == 9
    for one in (hog, parent):
        assert one.box.report()["memcg"]["kmem"]["usage"] == 0


def test_restart_policy_when_it_always_restarts_then_each_run_is_under_the_limit(
    start: Callable[..., Started],
) -> None:
    again = start(BUSYBOX, ["fork_pause", "200", "1"], tasks=20, restart_policy={"Name": "always"})
    # The engine waits longer before each.
    assert set(again.until_lines(3)) == {"children=20 errno=ENOMEM"}
    again.container.reload()
    assert again.container.attrs["RestartCount"] >= 2
    assert again.box.report()["refusals"]["total"] >= 3
    again.box.stop(grace=1)
    assert again.box.report()["memcg"]["kmem"]["usage"] == 0


def test_restart_when_asked_for_then_is_under_the_limit_again(
    start: Callable[..., Started],
) -> None:
    started = start(BUSYBOX, ["sh", "-c", "fork_pause 200; exec sleep 30"], tasks=20)
    assert started.until_lines(1) == ["children=19 errno=ENOMEM"]
    started.box.restart(grace=1)
    assert started.until_lines(2) == ["children=19 errno=ENOMEM"] * 2


def heard(run: Callable[[], tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Run a command in a container until it is heard: of sixty, a busy podman loses what three say."""
    outcomes = [run()]
    while not outcomes[-1][1] and len(outcomes) < 5:
        outcomes.append(run())
    return outcomes


def test_exec_then_counts_in_the_same_memcg(start: Callable[..., Started]) -> None:
    """The shell of the exec is the engine's doing, not charged; its children share the room."""
    holder = start(BUSYBOX, ["fork_pause", "12", "15"], tasks=20)
    assert holder.until_lines(1) == ["children=12 errno=none"]
    bound = (0, b"children=8 errno=ENOMEM\n")
    assert heard(lambda: holder.box.exec(["fork_pause", "200"]))[-1] == bound
    # What was taken is given back.
    assert heard(lambda: holder.box.exec("fork_pause 200"))[-1] == bound
    assert holder.box.memcg.kmem.usage == 12 * STACK
    assert not holder.box.report()["breaches"]


def test_exec_when_it_bombs_then_the_limit_is_never_passed(start: Callable[..., Started]) -> None:
    holder = start(BUSYBOX, ["sleep", "30"], tasks=30)
    status, output = holder.box.exec(["bomb_tree", "1"])
    assert status == 0
    assert b"first_errno=ENOMEM" in output
    # The engine's own process of the exec, too; it may pass through with threads of its own.
    assert holder.read("pids.peak") <= 30 + 2 + 8
    assert holder.box.report()["memcg"]["kmem"]["max_usage"] <= 30 * STACK


def test_exec_when_done_behind_our_back_then_is_bound_or_reported_as_a_breach(
    start: Callable[..., Started],
) -> None:
    holder = start(BUSYBOX, ["sleep", "30"], tasks=5)
    outcomes = heard(lambda: holder.container.exec_run(["fork_pause", "40"]))
    _, output = outcomes[-1]
    if holder.box.native:  # its runtime puts all that enters under the filter
        assert output == b"children=5 errno=ENOMEM\n"
        assert not holder.box.report()["breaches"]
        assert holder.box.report()["refusals"]["total"] == len(outcomes)
        return
    assert output == b"children=40 errno=none\n"  # unbound: what the backstop is for
    _, stream = holder.container.exec_run(["sleep", "10"], stream=True)

    def breaches() -> list[list[str]]:
        return [breach["command"] for breach in holder.box.report()["breaches"]]

    until(lambda: ["sleep", "10"] in breaches(), 10, "no breach is reported")
    # All of them, and the last perhaps as it was found, too.
    assert len(breaches()) <= len(outcomes) + 2
    del stream


def test_slices_when_twenty_containers_bomb_at_once_then_each_slice_holds(
    harness: Harness, start: Callable[..., Started]
) -> None:
    rooms = {"a": 30, "b": 60, "c": 100}
    slices = {
        name: harness.memcg(f"/matrix-{name}.slice", kmem_limit=tasks * STACK)
        for name, tasks in rooms.items()
    }

    def start_in_its_slice(number: int) -> tuple[str, Started]:
        name = "abc"[number % 3]
        memcg = slices[name].child(f"c{number}")
        return name, start(BUSYBOX, ["fork_pause", "250", "30"], memcg=memcg)

    with ThreadPoolExecutor(20) as threads:
        started = list(threads.map(start_in_its_slice, range(20)))
    counts = dict.fromkeys(rooms, 0)
    for name, one in started:
        (line,) = one.until_lines(1)
        counts[name] += int(line.split()[0].removeprefix("children="))
        assert line.endswith("errno=ENOMEM")
    # All of them hold what they have: each slice is exactly full, by the kernel's count too.
    assert counts == rooms
    for name, tasks in rooms.items():
        alive = [one.read("pids.current") - _AROUND for at, one in started if at == name]
        assert sum(alive) == tasks
        assert slices[name].kmem.usage == slices[name].kmem.max_usage == tasks * STACK
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda one: one[1].box.close(), started))
    for handle in slices.values():
        assert handle.kmem.usage == 0
        for child in handle.children():
            child.remove()
        handle.remove()
