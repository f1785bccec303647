"""Limits of units and slices, in real boxes."""

from __future__ import annotations

import errno

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.engine.task_bounds import pids_hierarchy
from tests.support.task_bound import shares_its_task_bound

#: What a forked process costs in kernel 5.10.
TASK = 87233
#: And one that runs another program since.
EXECUTED = 72151
FORKER = "/bin/sh -c 'for i in $$(seq 40); do sleep 60 & done; echo all; wait'"


def test_service_when_over_its_kmem_limit_then_it_is_refused_by_its_own_memcg(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play({"a.service": f"X-KmemMax=1M\nExecStart={FORKER}\n"}, script)["a.service"]
    assert found["memcg"]["path"] == "/system.slice/a.service"
    assert found["memcg"]["kmem"]["limit"] == 1 << 20
    assert (1 << 20) - TASK < found["memcg"]["kmem"]["max_usage"] <= 1 << 20
    assert found["refusals"]["by"] == {"/system.slice/a.service": found["refusals"]["total"]}
    assert found["refusals"]["first"]["errno"] == "ENOMEM"
    assert 1 < found["tasks_peak"] <= (1 << 20) // EXECUTED + 1


def test_slice_when_its_limit_is_met_then_it_refuses_what_a_service_may_have(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play(
        {
            "a.service": f"Slice=x-y.slice\nExecStart={FORKER}\n",
            "x.slice": "[Slice]\nX-KmemMax=1M\n",
        },
        script,
    )
    assert found["a.service"]["memcg"]["path"] == "/x.slice/x-y.slice/a.service"
    assert set(found["a.service"]["refusals"]["by"]) == {"/x.slice"}
    assert found["x-y.slice"]["memcg"]["kmem"]["limit"] == -1
    assert found["x.slice"]["memcg"]["kmem"]["max_usage"] <= 1 << 20


def test_property_when_set_on_a_running_service_then_it_binds_at_once(stage):
    async def script(stage):
        await stage.until(lambda: "all" in stage.lines("a.service"))
        await stage.manager.look()
        assert stage.manager.describe("a.service")["tasks"] == 41
        with pytest.raises(ConfigurationError, match="X-KmemMax= cannot be set: "):
            stage.manager.set_property("a.service", ["X-KmemMax=1M"])  # it has more than that
        stage.manager.set_property("a.service", ["X-KmemMax=100M", "MemoryMax=200M"])
        kmem = stage.manager.describe("a.service")["memcg"]
        assert (kmem["kmem"]["limit"], kmem["memory"]["limit"]) == (100 << 20, 200 << 20)
        stage.manager.set_property("a.service", ["X-KmemMax=infinity", "MemoryMax="])
        memcg = stage.manager.describe("a.service")["memcg"]
        assert (memcg["kmem"]["limit"], memcg["memory"]["limit"]) == (-1, -1)
        with pytest.raises(ConfigurationError, match=r"unit 'b\.service' does not run here"):
            stage.manager.set_property("b.service", ["X-KmemMax=1M"])

    found = stage.play({"a.service": f"ExecStart={FORKER}\n"}, script)["a.service"]
    assert found["refusals"]["total"] == 0


#: Its child takes more memory than there is, and is killed for it.
GREEDY = (
    "/bin/sh -c 'python3 -c \"import time; taken = [bytearray(1 << 20) for _ in range(150)]; "
    "time.sleep(60)\"; echo went on; sleep 60'"
)


@pytest.mark.parametrize(
    ("policy", "result"), [("stop", "oom-kill"), ("kill", "oom-kill"), ("continue", "success")]
)
def test_memory_limit_when_met_then_oom_policy_decides(stage, policy, result):
    async def script(stage):
        await stage.until(lambda: any("out of memory" in told for told in stage.told("a.service")))
        if policy == "continue":
            await stage.until(lambda: "went on" in stage.lines("a.service"))
        else:
            await stage.until_state("a.service", "failed")

    found = stage.play(
        {"a.service": f"MemoryMax=64M\nOOMPolicy={policy}\nExecStart={GREEDY}\n"}, script
    )["a.service"]
    assert found["result"] == result
    assert found["refusals"]["first"]["counter"] == "memory"
    assert found["memcg"]["memory"]["max_usage"] <= 64 << 20


def test_memory_limit_when_met_after_many_refusals_then_oom_policy_still_sees_it(stage):
    """It looked at the cards, of which the first hundred are kept."""

    async def script(stage):
        await stage.until_state("a.service", "failed")

    greedy = (
        "import os, time\\n"
        "for _ in range(120):\\n  try: os.mkdir('/nonexistent/x')\\n  except OSError: pass\\n"
        "if os.fork() == 0: taken = [bytearray(1 << 20) for _ in range(150)]\\n"
        "time.sleep(60)"
    )
    found = stage.play(
        {
            "a.service": "MemoryMax=64M\nOOMPolicy=stop\nX-KmemInject=mkdir:error=ENOMEM\n"
            f'ExecStart=/usr/bin/env python3 -c "{greedy}"\n'
        },
        script,
    )["a.service"]
    assert found["refusals"]["total"] > 120
    assert found["result"] == "oom-kill"
    assert sum(found["refusals"]["by"].values()) == found["refusals"]["total"]


def test_memory_limit_when_too_small_for_our_own_program_then_it_is_called_out_of_memory(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play({"a.service": "MemoryMax=1M\nExecStart=/bin/sleep 60\n"}, script)
    assert found["a.service"]["result"] == "oom-kill"


def test_tasks_max_when_met_then_the_kernel_says_eagain(stage):
    async def script(stage):
        await stage.started

    stage.play(
        {
            "a.service": "Type=oneshot\nTasksMax=5\n"
            "ExecStart=/usr/bin/env python3 -c 'import os, time\\n"
            "made = 0\\n"
            "try:\\n  while made < 50:\\n    if os.fork() == 0: time.sleep(60)\\n    made += 1\\n"
            "except OSError as error: print(made, error.errno)'\n"
        },
        script,
    )
    (line,) = stage.lines("a.service")
    made, number = line.split()
    assert int(number) == errno.EAGAIN
    assert made == "4" or shares_its_task_bound()


def test_memory_high_when_passed_then_it_is_said_once(stage):
    async def script(stage):
        await stage.until(lambda: any("MemoryHigh" in told for told in stage.told("a.service")))

    stage.play({"a.service": f"MemoryHigh=1M\nExecStart={FORKER}\n"}, script)
    assert sum("MemoryHigh" in told for told in stage.told("a.service")) == 1


def test_faults_when_injected_then_the_service_meets_them_and_its_slices_too(stage):
    async def script(stage):
        await stage.started

    found = stage.play(
        {
            "a.service": "Type=oneshot\nSlice=x.slice\nX-KmemInject=clone:error=EAGAIN:when=2+\n"
            "ExecStart=-/bin/sh -c 'true & echo no'\n",
            "b.service": "Type=oneshot\nSlice=x.slice\nExecStart=-/bin/sh -c 'true & echo no'\n",
            "x.slice": "[Slice]\nX-KmemInject=clone:error=ENOMEM:when=2+\n",
        },
        script,
    )
    # The first fork is ours: of the shell itself.
    assert found["a.service"]["refusals"]["first"]["counter"] == "injected"
    assert found["b.service"]["refusals"]["first"]["errno"] == "ENOMEM"
    assert not any(line == "no" for name in ("a", "b") for line in stage.lines(f"{name}.service"))


#: Forks until it is refused, and says how that was.
COUNTER = (
    "/usr/bin/env python3 -c 'import os, time\\n"
    "made = 0\\n"
    "try:\\n  while made < 50:\\n    if os.fork() == 0: time.sleep(60)\\n    made += 1\\n"
    "except OSError as error: print(made, error.errno, flush=True)\\n"
    "time.sleep(60)'"
)


@pytest.mark.skipif(pids_hierarchy() is None, reason="a slice's bound needs root and pids cgroups")
def test_tasks_max_of_a_slice_when_met_then_all_its_services_share_it_and_it_is_told(stage):
    async def script(stage):
        await stage.until(lambda: stage.lines("a.service") and stage.lines("b.service"))
        await stage.manager.look()

    found = stage.play(
        {
            "x.slice": "[Slice]\nTasksMax=12\n",
            "a.service": f"Slice=x.slice\nExecStart={COUNTER}\n",
            "b.service": f"Slice=x.slice\nTasksMax=4\nExecStart={COUNTER}\n",
        },
        script,
    )
    made = {name: stage.lines(f"{name}.service")[0].split() for name in "ab"}
    assert {row[1] for row in made.values()} == {str(errno.EAGAIN)}
    assert sum(int(row[0]) for row in made.values()) + 2 <= 12
    assert int(made["b"][0]) <= 3
    told = {key for name in "ab" for key in found[f"{name}.service"]["refusals"]["by_setting"]}
    assert told <= {"TasksMax= of x.slice", "TasksMax= of b.service"}
    assert "TasksMax= of x.slice" in told


def test_refusals_when_counted_then_the_setting_is_named(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play(
        {
            "a.service": f"Slice=x.slice\nExecStart={FORKER}\n",
            "x.slice": "[Slice]\nX-KmemMax=1M\n",
        },
        script,
    )["a.service"]
    assert set(found["refusals"]["by_setting"]) == {"X-KmemMax= of x.slice"}
    assert "calls were refused: " in found["hint"]
    assert "by X-KmemMax= of x.slice, first clone" in found["hint"]


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        ("ExecStart=/bin/true", "dead", "with exit code 0: a service stays"),
        ("ExecStart=/bin/sh -c 'exit 7'", "failed", "with exit code 7"),
        (
            "Restart=always\nRestartSec=1ms\nExecStart=/bin/sh -c 'exit 7'",
            "failed",
            "it was started 5 times and ended each time with exit code 7",
        ),
        ("Type=oneshot\nExecStart=/bin/true", "dead", ""),
    ],
)
def test_service_when_it_never_served_then_a_sentence_says_so(stage, text, state, words):
    async def script(stage):
        await stage.started
        await stage.until_state("a.service", state)

    hint = stage.play({"a.service": f"{text}\n"}, script)["a.service"]["hint"]
    assert words in hint
    assert bool(words) == bool(hint)


def test_limit_when_it_refuses_the_first_fork_then_the_service_fails_at_once(stage):
    """It waited ninety seconds, and again, for the end of processes that had never begun."""

    async def script(stage):
        await stage.until_state("a.service", "failed")

    found = stage.play({"a.service": "X-KmemMax=112K\nExecStart=/bin/sleep 60\n"}, script)
    assert found["a.service"]["result"] == "resources"
