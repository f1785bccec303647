"""An engine of the test's own, to be stopped and killed. Imports nothing of the harness."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import docker.errors
import requests.exceptions

from tests.support.engine import PATIENCE_SECONDS
from tests.support.peak import until

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OwnEngine"]

_NOT_UP = (docker.errors.DockerException, requests.exceptions.RequestException)


class OwnEngine:
    """A dockerd with everything it has in a directory of its own. Needs: root."""

    def __init__(self) -> None:
        """Choose where; it runs on entering."""
        self.directory = Path(tempfile.mkdtemp(prefix="kmem-engine-"))
        self.host = f"unix://{self.directory}/docker.sock"
        #: Its settings, in which SIGHUP has it look again.
        self.config = self.directory / "daemon.json"
        self.config.write_text("{}\n")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and take away what it has."""
        if self.process is not None:
            self.signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted(mounts, reverse=True):
            if mount.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start it, once more after :meth:`kill`, and wait until it answers."""
        here = self.directory
        with (here / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("dockerd", "--host", self.host, "--data-root", str(here / "data")),
                    *("--config-file", str(self.config)),
                    *("--exec-root", str(here / "exec"), "--pidfile", str(here / "pid")),
                    *("--iptables=false", "--ip6tables=false", "--bridge=none"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until(self._answers, PATIENCE_SECONDS, "it does not answer")
        except TimeoutError as error:
            raise TimeoutError((here / "log").read_text()[-2000:]) from error

    def kill(self) -> None:
        """Have it die at once, and leave its containers behind."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def client(self) -> Any:
        """Connect to it."""
        return docker.DockerClient(base_url=self.host, timeout=30)

    def _answers(self) -> bool:
        with suppress(*_NOT_UP):
            client = self.client()
            try:
                return bool(client.ping())
            finally:
                client.close()
        return False
