"""Time what is started: the command line, its imports, a box of a running Harness, a container.

``python -m tests.benchmarks.bench_start [--rounds N]``; interleaved, medians, beside what was
promised. A container needs a Docker engine with an image busybox or alpine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kmem_harness
from kmem_harness import Harness
from tests.benchmarks import show

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 15
_RUN = ["-m", "kmem_harness", "run", "--kmem-limit", "8M", "--quiet", "--", "true"]
_IMPORTS = "import kmem_harness.cli, kmem_harness.run_command, kmem_harness.harness"


def _python(*words: str) -> Callable[[], None]:
    environment = dict(os.environ, PYTHONPATH=str(Path(kmem_harness.__file__).parent.parent))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages are compiled
    return lambda: subprocess.run(
        [sys.executable, *words], env=environment, check=True, stdin=subprocess.DEVNULL
    )


def _box(harness: Harness) -> None:
    with harness.run(["true"], kmem_limit="8M") as box:
        box.wait(timeout=30)


def _containers(stack: ExitStack) -> dict[str, Callable[[], None]] | str:
    """Give how a container is started with the harness and without, or why none can be."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        tags = [tag for image in client.images.list() for tag in image.tags]
    except DockerException as error:
        return f"no Docker engine: {error}"
    image = next((tag for tag in tags if tag.startswith(("busybox", "alpine"))), None)
    if image is None:
        return "the Docker engine has no image busybox or alpine"
    harness = stack.enter_context(Harness("5.10"))
    options: dict[str, Any] = {"network_mode": "none"}

    def plain() -> None:
        container = client.containers.run(image, ["sleep", "60"], detach=True, **options)
        stack.callback(container.remove, force=True)

    def limited() -> None:
        box = harness.run(["sleep", "60"], image=image, kmem_limit="8M", **options)
        stack.callback(box.close)

    return {"container, plain": plain, "container": limited}


def _medians(starts: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Time each of *starts* in turn; the first of each also pays for what is kept. Units: ms."""
    took: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(rounds + 1):
        for name, start in starts.items():
            began = time.perf_counter()
            start()
            took[name].append((time.perf_counter() - began) * 1000)
    for name, each in took.items():
        print(f"{name:18} median {statistics.median(each[1:]):7.1f} ms, least {min(each[1:]):7.1f}")
    return {name: statistics.median(each[1:]) for name, each in took.items()}


def main(arguments: list[str]) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="bench_start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options, _ = parser.parse_known_args(arguments)
    with ExitStack() as stack, Harness("5.10") as harness:
        starts: dict[str, Callable[[], None]] = {
            "python": _python("-c", "pass"),
            "imports": _python("-c", _IMPORTS),
            "run": _python(*_RUN),
            "box": lambda: _box(harness),
        }
        containers = _containers(stack)
        if isinstance(containers, str):
            print(f"container: left out, {containers}")
        else:
            starts |= containers
        median = _medians(starts, options.rounds)
    reached = {
        "run": median["run"],
        "import": median["imports"] - median["python"],
        "box": median["box"],
    }
    if "container" in median:
        reached["docker"] = median["container"] - median["container, plain"]
    print(show.bounds(reached))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
