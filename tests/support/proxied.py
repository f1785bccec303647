"""A proxy of the tests' own before an engine, as a process."""

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

__all__ = ["Proxied", "proxied"]

_PATIENCE_SECONDS = 30.0


class Proxied:
    """One that runs."""

    def __init__(self, directory: Path, engine: str, *options: str) -> None:
        self.path = directory / "d"
        self.host = f"unix://{self.path}"
        self._log = directory / "log"
        words = ["proxy", "--listen", self.host, "--kernel", "v4", "--log-json", *options]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kmem_harness", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "DOCKER_HOST": engine},
            )
        try:
            until(self._has_started, _PATIENCE_SECONDS, "the proxy did not start")
        except BaseException:
            self.process.kill()
            raise

    def _has_started(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        return any(one["event"] == "proxy.started" for one in self.events())

    def events(self) -> list[dict[str, Any]]:
        """Read all that was logged."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@contextmanager
def proxied(directory: Path, engine: str, *options: str) -> Iterator[Proxied]:
    """Have one run; nothing of it is left afterwards."""
    one = Proxied(directory, engine, *options)
    try:
        yield one
    finally:
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(_PATIENCE_SECONDS) == 0
        assert not one.path.exists()
        assert not [each for each in one.events() if each["event"] == "request.failed"]
