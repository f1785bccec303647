"""The demos in Docker contain what misbehaves, and however they end, they leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from kmem_harness import Harness
from kmem_harness.demos.scenarios import SCENARIOS
from tests.docker.conftest import OPTIONS, containers
from tests.support.peak import until

ROOT = Path(__file__).parents[2]
MARK = "KMEM_TEST_MARK"
#: Those whose figures are the lead of the README, and of what is asked of us.
QUICK = ("fork-bomb", "noisy-neighbour")
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SCENARIOS]
SECONDS = 60


@dataclass(frozen=True)
class Traces:
    """Everything a demo could leave, as seen from outside: the engine, the kernel, the disk."""

    containers: frozenset[str]
    images: frozenset[str]
    volumes: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]
    processes: frozenset[str]


class Demo:
    """Demos on one engine, with a temporary directory of their own and a mark on each process."""

    def __init__(self, engine, directory):
        self._engine = engine
        self._directory = directory
        self._mark = uuid.uuid4().hex
        self.processes = []

    def start(self, name, seconds):
        words = ("--runtime", "docker", "--seconds", str(seconds), "--kmem-limit", "512K")
        process = subprocess.Popen(
            [sys.executable, "-m", "kmem_harness", "demo", name, *words],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TMPDIR": str(self._directory),
                "XDG_RUNTIME_DIR": str(self._directory),
                MARK: self._mark,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, as from a terminal
        )
        self.processes.append(process)
        return process

    def traces(self):
        api = self._engine.client.api
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        places = (self._engine.client.info()["DockerRootDir"], str(self._directory))
        return Traces(
            frozenset(containers(self._engine)),
            frozenset(row["Id"] for row in api.images(all=True)),
            frozenset(row["Name"] for row in api.volumes()["Volumes"] or ()),
            frozenset(line for line in mounts if any(place in line for place in places)),
            frozenset(str(path) for path in self._directory.rglob("*")),
            frozenset(marked(self._mark)),
        )

    def runs(self, program):
        """List the containers that run *program*, a file of the demos."""
        rows = self._engine.client.api.containers()
        return [row["Id"] for row in rows if f"/{program} " in f"{row['Command']} "]


def marked(mark):
    """Name the processes that are marked, but for dead ones."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                    yield f"{process.name} {(process / 'cmdline').read_text()}"
            except OSError:
                continue


@pytest.fixture
def demo(engine, usable):
    # Not tmp_path: the address of a socket in it would be too long.
    with tempfile.TemporaryDirectory(prefix="kmem-demo-") as directory:
        Path(directory).chmod(0o755)
        demo = Demo(engine, Path(directory))
        yield demo
        for process in demo.processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("name", NAMES)
def test_demo_then_contains_the_culprit_shows_its_neighbour_and_leaves_nothing(name, demo):
    before = demo.traces()
    process = demo.start(name, seconds=0.5)
    output, errors = process.communicate(timeout=2 * SECONDS)
    assert process.returncode == 0, output + errors
    assert errors == ""
    assert f"contained: the {SCENARIOS[name].culprit} " in output
    assert "left afterwards: nothing" in output
    for row in ("neighbour: p50", "neighbour: p99", "neighbour: slowest"):
        (line,) = [line for line in output.splitlines() if row in line]
        calm, without, held = (cell.split()[0] for cell in line.split("│")[2:5])
        assert min(float(calm), float(without), float(held)) > 0
    (line,) = [line for line in output.splitlines() if "neighbour: failures" in line]
    assert line.split("│")[4].strip() == "0"
    until(lambda: demo.traces() == before, 20, "something is left")


@pytest.mark.parametrize(
    ("name", "number", "status", "nr_culprit"),
    [
        ("fork-bomb", signal.SIGINT, 130, 1),
        ("noisy-neighbour", signal.SIGTERM, 143, 1),
        pytest.param("fork-bomb", signal.SIGINT, 130, 0, marks=pytest.mark.slow),
        pytest.param("fork-bomb", signal.SIGINT, 130, 2, marks=pytest.mark.slow),
        pytest.param("fork-bomb", signal.SIGTERM, 143, 2, marks=pytest.mark.slow),
        pytest.param("noisy-neighbour", signal.SIGINT, 130, 0, marks=pytest.mark.slow),
        pytest.param("noisy-neighbour", signal.SIGINT, 130, 1, marks=pytest.mark.slow),
        pytest.param("noisy-neighbour", signal.SIGINT, 130, 2, marks=pytest.mark.slow),
    ],
)
def test_demo_when_broken_off_in_the_middle_then_leaves_nothing(
    name, number, status, nr_culprit, demo
):
    """Ctrl-C while the neighbour is alone, beside the free culprit (1), and the held one (2)."""
    before = demo.traces()
    process = demo.start(name, seconds=8)
    reach(demo, SCENARIOS[name].program, nr_culprit)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == status, output + errors
    assert "Traceback" not in errors
    until(lambda: demo.traces() == before, 20, "something is left")


def test_demo_when_killed_then_the_next_session_removes_the_image_that_is_left(demo, engine, image):
    before = demo.traces()
    process = demo.start("fork-bomb", seconds=8)
    reach(demo, SCENARIOS["fork-bomb"].program, 1)
    process.kill()
    process.communicate(timeout=SECONDS)

    def only_the_image_is_left():
        now = demo.traces()
        return len(now.images - before.images) == 1 and now == Traces(
            **{**vars(before), "images": now.images}
        )

    until(only_the_image_is_left, 20, "more than an image is left")
    with Harness() as harness:
        harness.run(["true"], image=image, **OPTIONS).close()
    assert demo.traces() == before


def reach(demo, program, nr_culprit):
    """Wait until the demo has started so many containers of its culprit; with 0, of its neighbour."""
    seen = set()
    wanted = program if nr_culprit else "neighbour.py"

    def reached():
        seen.update(demo.runs(wanted))
        return len(seen) >= max(nr_culprit, 1)

    until(reached, SECONDS, f"{wanted} does not start")
