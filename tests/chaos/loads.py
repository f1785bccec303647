"""What burns in the boxes, as data: the command, its limit, and how to see from outside that it holds.

Imports nothing of the package.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.bombs import bomb_command
from tests.support.peak import NamespacePeak, Peak, descendants, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.parts import Parts
    from tests.support.programs import Programs

__all__ = ["CHURNS", "LOADS", "SECONDS", "Load"]

#: So long each burns, from the moment its file ``begin`` is there.
SECONDS = 2
OBJECTS = 30
#: It waits for that file a minute or two at most.
_MOST_NAPS = 5000
#: Init and the first process are not charged, nor are the first one's pipes to the outside.
_INIT_AND_FIRST = 2
_OWN_PIPES = 2

#: Makes what CODE makes until there is no more, keeps it a moment, frees it, and again.
_HOARDER = """
import os, sys, time
from contextlib import suppress
directory, seconds = sys.argv[1], float(sys.argv[2])
end = time.monotonic() + seconds
number = 0
while time.monotonic() < end:
    held = []
    with suppress(OSError):
        while len(held) < 200:
            number += 1
            held.append(make(f"{directory}/{number}"))
    time.sleep(0.003)
    for one in held:
        free(one)
"""
_DIRECTORIES = """
def make(path):
    os.mkdir(path)
    return path
free = lambda path: os.rmdir(path)
"""
_PIPES = """
make = lambda path: os.pipe()
free = lambda ends: (os.close(ends[0]), os.close(ends[1]))
"""


@dataclass(frozen=True)
class Load:
    """A command that wants far more than *most* objects of *kinds*, and what it really has."""

    command: Callable[[Programs, Path], list[str]]
    kinds: tuple[str, ...]
    nbytes: int
    watch: Callable[[Parts, Path], Peak]
    kernel: str = "v4"
    #: What the watch sees that is not charged.
    beside: int = _INIT_AND_FIRST

    @property
    def limit(self) -> int:
        """Its limit, in bytes."""
        return OBJECTS * self.nbytes

    def begun_by(self, begin: Path, programs: Programs, directory: Path) -> list[str]:
        """Give the command, to burn once the file *begin* is there; *directory* is for its names.

        It then writes to that file, which says when.
        """
        wait = f'n=0; until [ -e "{begin}" ] || [ $n -gt {_MOST_NAPS} ]; do n=$((n+1)); sleep 0.01; done'
        begun = f'{wait}; echo >"{begin}"; exec "$@"'
        return ["sh", "-c", begun, "sh", *self.command(programs, directory)]


def _bomb(name: str) -> Callable[[Programs, Path], list[str]]:
    return lambda programs, _: bomb_command(name, programs, SECONDS)


def _hoarder(code: str) -> Callable[[Programs, Path], list[str]]:
    words = [sys.executable, "-I", "-S", "-c", f"import os\n{code}{_HOARDER}"]
    return lambda _, directory: [*words, str(directory), str(SECONDS)]


def _watch_tasks(parts: Parts, _: Path) -> Peak:
    return NamespacePeak(**{"init" if parts.has_namespace else "root": parts.init})


def _watch_names(_: Parts, directory: Path) -> Peak:
    return Peak("names", str(directory))


def _watch_pipes(parts: Parts, _: Path) -> Peak:
    until(lambda: _target(parts) > 0, 30, "no target appears")
    return Peak("pipes", str(_target(parts)))


def _target(parts: Parts) -> int:
    """Find the first process that is none of init's own: its process group had a leader before it."""
    ours = {"", "kmem-init"}
    return next((pid for pid in descendants(parts.init) if _name_of(pid) not in ours), 0)


def _name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


_TASKS = {"kinds": ("task", "thread"), "nbytes": 8192, "watch": _watch_tasks}
_ON_5_10 = {"kernel": "5.10"}
LOADS: dict[str, Load] = {
    name: Load(command=_bomb(name), **_TASKS)  # type: ignore[arg-type]
    for name in ("tree", "vfork", "threads", "rawclone-mixed")
}
#: Under 5.10, which charges more than tasks; a fork costs the same each time there.
CHURNS: dict[str, Load] = {
    "forks": Load(_bomb("tree"), ("task",), 87_233, _watch_tasks, **_ON_5_10),
    "directories": Load(
        _hoarder(_DIRECTORIES), ("directory",), 1_522, _watch_names, beside=0, **_ON_5_10
    ),
    "pipes": Load(_hoarder(_PIPES), ("pipe",), 2_576, _watch_pipes, beside=_OWN_PIPES, **_ON_5_10),
}
