"""A target that does as it is told: makes children, which pause, and says how far it got."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from kmem_harness import Box, Harness

__all__ = ["PYTHON", "TASK", "Forker", "python"]

#: What one task costs in kernel v4. Units: bytes.
TASK = 8192
PYTHON = [sys.executable, "-I", "-S", "-c"]

_PROGRAM = """
import errno, json, os, signal, sys

made = []

def fork(count):
    for number in range(count):
        try:
            pid = os.fork()
        except OSError as error:
            return number, errno.errorcode[error.errno]
        if pid == 0:
            signal.pause()
        made.append(pid)
    return count, None

def reap(count):
    for _ in range(count):
        pid = made.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(made), None

print(json.dumps([os.getpid(), None]), flush=True)
for line in sys.stdin:
    order, count = line.split()
    print(json.dumps(globals()[order](int(count))), flush=True)
reap(len(made))
"""


def python(code: str, *words: str) -> list[str]:
    """Give the command that runs *code*."""
    return [*PYTHON, code, *words]


class Forker:
    """A box with such a target in it; as a context manager, ended and collected."""

    def __init__(self, harness: Harness, **options: Any) -> None:
        """Start it; *options* are those of ``Harness.run``."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.box: Box = harness.run([*PYTHON, _PROGRAM], **pipes, **options)
        self.pid = self._hear()[0]

    def __enter__(self) -> Self:
        """Give it, started."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it the hard way, unless it has ended."""
        self.box.close()
        self.box.running.stdin.close()  # type: ignore[attr-defined]
        self.box.running.stdout.close()  # type: ignore[attr-defined]

    def fork(self, count: int) -> tuple[int, str | None]:
        """Have *count* children made; say how many were, and the errno of the one that was not."""
        return self._tell(f"fork {count}")

    def reap(self, count: int) -> int:
        """Have *count* children ended and collected; say how many are left."""
        return self._tell(f"reap {count}")[0]

    def finish(self) -> None:
        """Let it collect its children and end."""
        self.box.communicate(timeout=30)
        assert self.box.wait(timeout=30) == 0

    def _tell(self, order: str) -> tuple[int, str | None]:
        stdin = self.box.running.stdin  # type: ignore[attr-defined]
        stdin.write(f"{order}\n".encode())
        stdin.flush()
        return self._hear()

    def _hear(self) -> tuple[int, str | None]:
        number, name = json.loads(self.box.running.stdout.readline())  # type: ignore[attr-defined]
        return number, name
