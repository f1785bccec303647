"""What is run in every way: small programs that time themselves, and whole commands.

Knows commands; knows nothing of how they are confined.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOADS", "Load", "prepare"]


@dataclass(frozen=True)
class Load:
    """One load.

    :param what: what one of it is, for people.
    :param iterations: how many are done in one round; 1 for a whole command.
    :param script: for a whole command, the shell script it is; ``prepare`` makes its files.
    :param needs: programs the script calls.
    """

    name: str
    what: str
    iterations: int
    script: str | None = None
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> str | None:
        """Name a program that is not installed."""
        return next((name for name in self.needs if shutil.which(name) is None), None)

    def times(self, share: float) -> int:
        """Say how many are done in one round."""
        return 1 if self.script is not None else max(1, int(self.iterations * share))

    def command(self, load_program: str, share: float = 1.0) -> list[str]:
        """Give the command line; a *share* under 1 does so much less of it."""
        if self.script is not None:
            return ["/bin/sh", "-ec", self.script]
        return [load_program, self.name, str(self.times(share))]


_SOURCE = '#include <stdio.h>\nint f%(n)d(int x) { for (int i = 0; i < x; i++) printf("%%d", i); return x; }\n'
_TESTS = "import subprocess, sys\n" + "".join(
    f"def test_{number}(tmp_path):\n    (tmp_path / 'f').write_text('x')\n"
    f"    assert subprocess.run(['true']).returncode == 0\n"
    for number in range(40)
)
_REDIS = """
port=$((20000 + $$ % 20000))
redis-server --port $port --save '' --appendonly no --daemonize no >/dev/null & server=$!
until redis-cli -p $port ping >/dev/null 2>&1; do :; done
redis-benchmark -p $port -q -n 20000 -c 10 -t set,get >/dev/null
kill $server; wait $server || :
"""
LOADS: dict[str, Load] = {
    load.name: load
    for load in (
        Load("call", "one supervised call that fails", 20_000),
        Load("fork", "fork, exit, wait", 500),
        Load("exec", "fork, exec of a static binary, wait", 200),
        Load("thread", "pthread create, join", 2_000),
        Load("mkdir", "mkdir, rmdir", 4_000),
        Load("open", "open, close", 20_000),
        Load("create", "create, close, unlink", 4_000),
        Load("socket", "socket, close", 10_000),
        Load("pipe", "pipe, close", 10_000),
        Load("plain", "read, write, futex", 200_000),
        Load(
            "script",
            "a shell script of 200 commands",
            1,
            "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done",
        ),
        Load(
            "compile",
            "a C compile of 16 files, two at once",
            1,
            "rm -f *.o; ls *.c | xargs -P 2 -n 1 cc -O2 -c",
            ("cc", "xargs"),
        ),
        Load(
            "pytest",
            "a Python suite of 40 tests that start processes",
            1,
            f"{sys.executable} -m pytest -q -p no:cacheprovider -p no:randomly suite.py >/dev/null",
        ),
        Load("redis", "redis-benchmark, 40000 requests", 1, _REDIS, ("redis-server", "redis-cli")),
    )
}


def prepare(directory: Path) -> None:
    """Make the files the whole commands work on."""
    for number in range(16):
        (directory / f"unit{number}.c").write_text(_SOURCE % {"n": number})
    (directory / "suite.py").write_text(_TESTS)
