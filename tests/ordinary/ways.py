"""Run one program of the table in one way, and take down all that can be seen of it. Knows no verdicts."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ordinary.table import Program

__all__ = ["WAYS", "Outcome", "busy_neighbour", "missing", "run"]

_PATIENCE_SECONDS = 300.0
#: A rule that counts calls and fails none.
_COUNTING = "clone,pipe2,socket,mkdir,openat:count"
#: What comes before the program, by way; ``{limit}`` is the program's own.
WAYS = {
    "native": (),
    "limited": ("--kmem-limit", "{limit}"),
    "observed": ("--observe",),
    "counted": ("--inject", _COUNTING),
}
_BURN = "import os\nwhile True:\n    for _ in range(9999): pass\n    os.stat('/')"


@dataclass(frozen=True)
class Outcome:
    """What can be seen of one run. Units: seconds; they are not compared."""

    status: int
    stdout: str
    stderr: str
    files: dict[str, str]
    seconds: float = field(compare=False)


def missing(program: Program) -> list[str]:
    """List the commands that *program* needs and that are not here."""
    return [name for name in program.needs if shutil.which(name) is None]


def run(program: Program, way: str, isolation: str | None = None) -> Outcome:
    """Run it in an empty directory, in the way of that name."""
    before: list[str] = []
    if way != "native":
        before = [sys.executable, "-m", "kmem_harness", "run", "--quiet"]
        before += [*(["--isolation", isolation] if isolation else [])]
        before += [word.format(limit=program.limit) for word in WAYS[way]] + ["--"]
    # The same name each time: programs print where they are.
    directory = Path(tempfile.gettempdir(), f"kmem-ordinary-{os.getpid()}")
    directory.mkdir()
    try:
        if program.source:
            (directory / "program").write_bytes(_compiled(program.source))
            (directory / "program").chmod(0o755)
        began = time.monotonic()
        with subprocess.Popen(
            [*before, *program.command],
            cwd=directory,
            env={**os.environ, "LC_ALL": "C", "TERM": "dumb"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=_PATIENCE_SECONDS)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        seconds = time.monotonic() - began
        files = dict(_files(directory, program.not_compared))
    finally:
        shutil.rmtree(directory)
    return Outcome(
        process.returncode,
        _lines(stdout, program),
        _lines(stderr, program),
        files,
        seconds,
    )


@functools.cache
def _compiled(source: str) -> bytes:
    """Give the static program that C text makes."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "program.c").write_text(source)
        cc = ["cc", "-O1", "-static", "-pthread", "-o", "program", "program.c"]
        subprocess.run(cc, cwd=directory, check=True)
        return Path(directory, "program").read_bytes()


def _lines(text: bytes, program: Program) -> str:
    lines = text.decode(errors="replace").splitlines(keepends=True)
    return "".join(sorted(lines) if program.unordered else lines)


def _files(directory: Path, not_compared: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Describe every file by its name: its mode, its links, and what it holds."""
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if name.startswith(not_compared or "\0"):
            continue
        status = path.lstat()
        holds = ""
        if stat.S_ISREG(status.st_mode):
            holds = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        elif stat.S_ISLNK(status.st_mode):
            holds = str(path.readlink())
        yield name, f"{status.st_mode:o} {status.st_uid} {holds}"


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Have a process beside that never rests."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _BURN]) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()
