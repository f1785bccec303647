"""Plugins take part in every step; one that fails ends its container and is named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kmem_harness import Harness
from kmem_harness.core.errors import ShimError
from kmem_harness.hooks import PluginError
from kmem_harness.hookspecs import hookimpl
from tests.docker.conftest import OPTIONS, STACK, containers
from tests.support.peak import until

STEPS = ("create", "start", "exec", "pause", "unpause", "stop", "kill", "remove")
PLUGIN = Path(__file__).parents[2] / "plugins" / "kmem-harness-prometheus"


def recorder(seen):
    """Make a plugin that notes each step."""

    def noting(name):
        def hook(box):
            seen.append(name)

        return hookimpl(hook)

    names = [f"kmem_{when}_{step}" for step in STEPS for when in ("before", "after")]
    return type("Recorder", (), {name: staticmethod(noting(name[5:])) for name in names})()


def test_hooks_when_a_container_lives_then_are_called_around_each_step(engine, usable, image):
    seen = []
    with Harness("v4", plugins=[recorder(seen)]) as harness:
        box = harness.run(["sleep", "100"], image=image, kmem_limit="1M", **OPTIONS)
        box.exec(["true"])
        box.container.pause()
        box.container.unpause()
        box.stop(grace=0)
        box.container.start()
        box.kill()
        box.close()
    steps = ["create", "start", "exec", "pause", "unpause", "stop", "start", "kill", "remove"]
    assert seen == [f"{when}_{step}" for step in steps for when in ("before", "after")]


def test_hooks_when_a_spec_is_changed_then_so_is_the_container(engine, usable, image):
    class Plugin:
        @hookimpl
        def kmem_before_create(self, spec):
            spec.labels["mine"] = "yes"
            spec.command[-1] = "echo changed"

        @hookimpl
        def kmem_price_syscall(self, kind, nbytes):
            return 2 * nbytes if kind == "task" else None

        @hookimpl
        def kmem_report(self, report):
            report["mine"] = 1

    with Harness("v4", plugins=[Plugin()]) as harness:
        box = harness.run(["sh", "-c", "echo x"], image=image, kmem_limit="1M", **OPTIONS)
        box.wait(timeout=30)
        assert box.logs() == b"changed\n"
        assert box.container.labels["mine"] == "yes"
        assert box.report()["kinds"]["task"]["bytes_each"] == 2 * STACK
        assert box.report()["mine"] == 1


@pytest.mark.parametrize("hook", ["before_create", "after_create", "before_start", "after_start"])
def test_hook_when_it_fails_then_only_that_container_ends_and_the_plugin_is_named(
    hook, engine, usable, image
):
    before = containers(engine)

    def fail(box):
        if box.spec.command == ("false",):
            raise RuntimeError("no thanks")

    faulty = type("Faulty", (), {f"kmem_{hook}": staticmethod(hookimpl(fail))})
    with Harness("v4", plugins=[faulty()]) as harness:
        good = harness.run(["sleep", "100"], image=image, kmem_limit="1M", **OPTIONS)
        there = containers(engine)
        with pytest.raises(PluginError, match=f"'Faulty' failed in kmem_{hook}.*no thanks"):
            harness.run(["false"], image=image, kmem_limit="1M", **OPTIONS)
        assert containers(engine) == there
        assert good.status is None
        assert harness.controller.children("/docker") == [good.name]
    assert containers(engine) == before


def test_refused_when_a_plugin_asked_for_it_then_is_told_of_each_card(engine, usable, image):
    cards, gone = [], []

    class Plugin:
        @hookimpl
        def kmem_refused(self, box, card):
            cards.append((box.name, card["errno"]))

        @hookimpl
        def kmem_memcg_offline(self, path, counters):
            gone.append((path, counters["kmem"]["failcnt"]))

    with Harness("v4", plugins=[Plugin()]) as harness:
        box = harness.run(
            ["sh", "-c", "sleep 99 & sleep 99 & wait"], image=image, kmem_limit=STACK, **OPTIONS
        )
        box.wait(timeout=30)
        until(lambda: cards, 10, "nobody was told")
        assert cards == [(box.name, "ENOMEM")]
        box.close()
        assert gone == [(f"/docker/{box.name}", 1)]


def test_prometheus_plugin_when_installed_then_serves_the_reports_figures(tmp_path):
    pytest.importorskip("prometheus_client")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--no-index", "--target", str(tmp_path), str(PLUGIN)),
        ],
        check=True,
        timeout=120,
    )
    script = """
import math, os, urllib.request
from kmem_harness import Harness
from prometheus_client.parser import text_string_to_metric_families

def served():
    address = "http://127.0.0.1:" + os.environ["KMEM_HARNESS_PROMETHEUS_PORT"] + "/metrics"
    with urllib.request.urlopen(address) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families for sample in family.samples if sample.name.startswith("kmem_")
    }

with Harness("v4") as harness:
    for call in ("kmem_price_syscall", "kmem_refused", "kmem_memcg_offline", "kmem_report"):
        assert not harness.hooks.wants(call)
    for again in range(2):
        script = "sleep 99 & sleep 99 & sleep 99 & wait"
        path = f"/web/{again}"
        box = harness.run(["sh", "-c", script], kmem_limit=2 * 8192, memcg=path)
        box.wait(timeout=30)
        if again:
            box.close()
        report, get = box.report(), served()
        for counter in ("kmem", "memory"):
            row = report["memcg"][counter]
            limit = math.inf if row["limit"] < 0 else row["limit"]
            assert get[("kmem_limit_bytes", path, counter)] == limit
            assert get["kmem_usage_bytes", path, counter] == row["usage"]
            assert get["kmem_max_usage_bytes", path, counter] == row["max_usage"] > 0
            assert get["kmem_failcnt_total", path, counter] == row["failcnt"]
        for kind, row in report["kinds"].items():
            assert get[("kmem_refusals_total", *sorted((path, kind)))] == row["refused"]
        assert report["kinds"]["task"]["refused"] == 1
"""
    root = str(PLUGIN.parents[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), root]),
        "KMEM_HARNESS_PROMETHEUS_PORT": port,
    }
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr


def test_start_when_the_images_user_cannot_reach_the_socket_then_says_so_and_leaves_nothing(
    engine, usable, image
):
    class Shut:
        @hookimpl
        def kmem_before_start(self, box):
            Path(box.socket).chmod(0o600)

    before = containers(engine)
    with Harness("v4", plugins=[Shut()], docker_listener="shim") as harness:
        with pytest.raises(ShimError, match="connect: Permission denied"):
            harness.run(["true"], image=image, user="1000", kmem_limit="1M", **OPTIONS)
        assert containers(engine) == before
        # Root may: the next one runs.
        assert harness.run(["true"], image=image, kmem_limit="1M", **OPTIONS).wait(30) == 0
