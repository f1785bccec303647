"""Run ``kmem-harness run`` as a user does, and find its parts from outside.

Knows the command line's promises and procfs; imports nothing of the package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.peak import descendants, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.no_seccomp import WithoutSeccomp
    from tests.support.peak import PidsCgroup

__all__ = ["CommandLine", "Outcome", "Parts", "RunEndedError", "find_parts"]

_ROOT = Path(__file__).parent.parent.parent
_PATIENCE_SECONDS = 60.0


class RunEndedError(RuntimeError):
    """A run ended before its box was up; the message is what it printed."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: int
    stdout: str
    stderr: str
    report: dict[str, Any] = field(repr=False)

    @property
    def kmem(self) -> dict[str, int]:
        """The report's row of the kmem counter."""
        return dict(self.report["memcg"]["kmem"])

    def tally(self) -> dict[str, str]:
        """Read the ``name=value`` words that the test programs print."""
        return dict(word.split("=") for word in self.stdout.split())


@dataclass(frozen=True)
class Parts:
    """The processes of one run, outside the box and at its root; each of them may be killed."""

    cli: int
    controller: int
    guard: int
    init: int  # the ancestor of all that is in the box

    @property
    def has_namespace(self) -> bool:
        """Whether the box has a pid namespace of its own."""
        return Path(f"/proc/{self.init}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()


class CommandLine:
    """``kmem-harness run``, with everything it may leave behind in *directory*.

    *within* puts a run, harness and all, into a pids cgroup, or where seccomp is denied.
    """

    def __init__(self, directory: Path) -> None:
        """Use *directory* for reports, sockets and temporary files."""
        self.directory = directory
        self.runtime_directory = directory / "run"
        self.runtime_directory.mkdir(mode=0o700)
        self._nr_runs = 0
        self._report = Path()

    def start(
        self,
        command: Sequence[str],
        *options: str,
        within: PidsCgroup | WithoutSeccomp | None = None,
        engine: str | None = None,
        **popen: Any,
    ) -> subprocess.Popen[str]:
        """Start a run and return at once; *engine* is the address of its containers' engine."""
        self._nr_runs += 1
        self._report = self.directory / f"report-{self._nr_runs}.json"
        words = [sys.executable, "-m", "kmem_harness", "run", "--report", str(self._report)]
        words += [*options, "--", *command]
        return subprocess.Popen(
            within.command(words) if within else words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment(), **({"DOCKER_HOST": engine} if engine else {})},
            **popen,
        )

    def finish(
        self, process: subprocess.Popen[str], patience: float = _PATIENCE_SECONDS
    ) -> Outcome:
        """Wait for the run that was started last and read its report."""
        try:
            stdout, stderr = process.communicate(timeout=patience)
        except BaseException:
            process.kill()
            raise
        report = {}
        with suppress(FileNotFoundError):
            report = json.loads(self._report.read_text())
        return Outcome(process.returncode, stdout, stderr, report)

    def run(
        self,
        command: Sequence[str],
        *options: str,
        within: PidsCgroup | WithoutSeccomp | None = None,
        patience: float = _PATIENCE_SECONDS,
    ) -> Outcome:
        """Run to the end."""
        return self.finish(self.start(command, *options, within=within), patience)

    def leftovers(self) -> list[str]:
        """List sockets and temporary files that runs have left behind."""
        return sorted(str(path) for path in self.runtime_directory.rglob("*"))

    def environment(self) -> dict[str, str]:
        """Give the environment in which runs are started, and in which they are found."""
        python_path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        here = str(self.runtime_directory)
        return {
            **os.environ,
            "PYTHONPATH": python_path,
            "XDG_RUNTIME_DIR": here,
            "TMPDIR": here,
        }


def find_parts(cli: subprocess.Popen[str]) -> Parts:
    """Find the processes of the run *cli*, once its box is up.

    Raises: RunEndedError if the run ends before that, TimeoutError.
    """
    found: dict[str, int] = {}

    def look() -> bool:
        if cli.poll() is not None:
            raise RunEndedError(cli.communicate())
        for pid in descendants(cli.pid):
            words = _words(pid)
            if b"kmem_harness.controller" in b" ".join(words):
                found["controller"] = pid
            elif words[0].endswith(b"/kmem-init") and b"--" in words:
                # Guard, init and, for a moment, the target are one program; parents come first.
                found.setdefault("guard", pid)
                if pid != found["guard"]:
                    found.setdefault("init", pid)
        return {"controller", "guard", "init"} <= found.keys()

    until(look, _PATIENCE_SECONDS, f"no box below process {cli.pid}")
    return Parts(cli=cli.pid, **found)


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]
