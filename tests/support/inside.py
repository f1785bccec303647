"""Run a program of this machine in a container that was started without any option, as CI jobs are.

Knows engines; imports nothing of the harness. The container sees the machine's system, and this
Python with what is installed for it, read-only: an image of its own would take minutes to make.
"""

from __future__ import annotations

import site
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

__all__ = ["run_inside"]

ROOT = Path(__file__).parents[2]
_SYSTEM = ("/bin", "/lib", "/lib64", "/usr")
_PATIENCE_SECONDS = 120


def run_inside(engine: Engine, image: str, script: str) -> tuple[int, str]:
    """Run a shell script as root, with the checkout as its directory, and ``$PYTHON``.

    Gives its exit status and what it wrote.
    """
    mounts = [f"{place}:{place}:ro" for place in _places()]
    container = engine.client.containers.create(
        image,
        ["/bin/sh", "-c", script],
        environment={
            "PATH": "/usr/bin:/bin",
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        network_mode="none",
        tmpfs={"/tmp": "exec"},
        volumes=mounts,
        working_dir=str(ROOT),
    )
    try:
        container.start()
        status = container.wait(timeout=_PATIENCE_SECONDS)["StatusCode"]
        return status, container.logs().decode(errors="replace")
    finally:
        container.remove(force=True)


def _places() -> Iterator[str]:
    """Name every directory that is needed, none below another one."""
    own = [sys.prefix, sys.base_prefix, *site.getsitepackages(), *_linked_packages(), str(ROOT)]
    places = sorted({*_SYSTEM, *map(str, own)})
    for place in places:
        above = [other for other in places if place.startswith(f"{other}/")]
        if not above and Path(place).is_dir():
            yield place


def _linked_packages() -> list[str]:
    """Name the directories that ``.pth`` files of this environment add to its path."""
    return [place for place in sys.path if place.endswith("site-packages")]
