"""A standing controller of the tests' own, as a process, and what it logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Standing", "command_line", "standing"]

_PATIENCE_SECONDS = 30.0


def command_line(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "kmem_harness", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


class Standing:
    """One that runs."""

    def __init__(self, directory: Path, *options: str, kernel: str = "v4") -> None:
        self.socket = directory / "s"
        self.state = directory / "state"
        self._log = directory / "log"
        self.where = ["--socket", str(self.socket), "--state", str(self.state)]
        words = ["serve", *self.where, "--kernel", kernel, "--log-json", "--log-level", "debug"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kmem_harness", *words, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.until("serve.started")
        except BaseException:
            self.process.kill()
            raise

    def events(self) -> list[dict[str, Any]]:
        """Read all that was logged."""
        lines = self._log.read_text().splitlines()
        assert all(line.startswith("{") for line in lines), lines
        return [json.loads(line) for line in lines]

    def until(self, event: str, **facts: Any) -> dict[str, Any]:
        """Wait until *event* was logged, with *facts*."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            if self.process.poll() is not None and event != "serve.stopped":
                raise AssertionError(self._log.read_text())
            found[:] = [
                one
                for one in (self.events() if self._log.exists() else [])
                if one["event"] == event and facts.items() <= one.items()
            ]
            return bool(found)

        until(is_there, _PATIENCE_SECONDS, f"{event} was not logged")
        return found[-1]

    def report(self, container: str) -> dict[str, Any]:
        """Read a container's report by the command line."""
        outcome = command_line("report", container, *self.where)
        assert outcome.returncode == 0, outcome.stderr
        report: dict[str, Any] = json.loads(outcome.stdout)
        return report

    def profile(self, size: str, *options: str, **environment: str) -> Path:
        """Make a profile for it by the command line."""
        outcome = command_line(
            "profile", size, "--kernel", "v4", "--socket", str(self.socket), *options, **environment
        )
        assert outcome.returncode == 0, outcome.stderr
        file = self.state / f"{size}.json"
        file.write_text(outcome.stdout)
        return file

    def stop(self) -> int:
        """End it as systemd would."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE_SECONDS)


@contextmanager
def standing(directory: Path, *options: str) -> Iterator[Standing]:
    """Have one run; nothing of it is left afterwards."""
    one = Standing(directory, *options)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            assert one.stop() == 0
        assert not one.socket.exists()
