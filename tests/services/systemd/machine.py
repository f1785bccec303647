"""A machine whose first process is the host's own systemd. Needs root, overlay and cgroups."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["Machine", "why_no_machine"]

_BOOT = Path(__file__).parent / "boot.sh"
_SYSTEMD = "/lib/systemd/systemd"
_UP_SECONDS = 20.0
_STABLE = ("running", "exited", "dead", "failed")
_SETTLED_SECONDS = 0.35


def why_no_machine() -> str:
    """Say what is missing for a machine, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("unshare", "nsenter", "pivot_root") if shutil.which(name) is None]
    if not os.access(_SYSTEMD, os.X_OK) or missing:
        return f"not installed: {', '.join([*missing, 'systemd'])}"
    return ""


class Machine:
    """One machine, from its boot to its end."""

    def __init__(self) -> None:
        """Boot it. Raises: OSError, TimeoutError."""
        self._layer = tempfile.mkdtemp(prefix="kmem-machine-")
        self._cgroups = _own_cgroups(f"kmem-machine-{os.getpid()}")
        self._process = subprocess.Popen(
            [
                *("unshare", "-p", "-m", "-n", "-u", "-i", "-C", "--fork", "--kill-child"),
                *("--propagation", "private", "sh", str(_BOOT), self._layer),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=self._enter_cgroups,  # noqa: PLW1509 - before the cgroup namespace is made
        )
        self._pid = self._until_up()

    def _enter_cgroups(self) -> None:
        for path in self._cgroups:
            (path / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def _until_up(self) -> str:
        deadline = time.monotonic() + _UP_SECONDS
        children = f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        while time.monotonic() < deadline and self._process.poll() is None:
            found = Path(children).read_text(encoding="ascii").split()
            if found:
                up = subprocess.run(
                    ["nsenter", "-t", found[0], "-a", "systemctl", "is-system-running"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if up.stdout.strip() in ("running", "degraded"):
                    return found[0]
            time.sleep(0.1)
        self.close()
        said = self._process.stderr.read() if self._process.stderr else b""
        raise TimeoutError(f"systemd did not come up: {said.decode(errors='replace')}")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return subprocess.run(
            ["nsenter", "-t", self._pid, "-a", *argv],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def write(self, units: dict[str, str]) -> None:
        """Give it unit files."""
        folder = Path(f"/proc/{self._pid}/root/etc/systemd/system")
        for name, text in units.items():
            (folder / name).write_text(text, encoding="utf-8")
        self.run("systemctl", "daemon-reload")

    def read(self, path: str) -> str:
        """Read a file of it; nothing if it is not there."""
        try:
            return Path(f"/proc/{self._pid}/root{path}").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def settled(self, names: list[str]) -> dict[str, str]:
        """Wait until nothing is under way; give the sub-state of each unit."""
        last: dict[str, tuple[str, str]] = {}
        since = time.monotonic()
        deadline = since + 8
        while time.monotonic() < deadline:
            found = self._states(names)
            if found != last:
                last, since = found, time.monotonic()
            quiet = all(state in _STABLE and not job for state, job in found.values())
            if quiet and time.monotonic() - since > _SETTLED_SECONDS:
                break
            time.sleep(0.05)
        return {name: last[name][0] for name in names}

    def _states(self, names: list[str]) -> dict[str, tuple[str, str]]:
        said = self.run("systemctl", "show", "-p", "Id,SubState,Job", *names).stdout
        found = {}
        for block in said.strip().split("\n\n"):
            row = dict(line.split("=", 1) for line in block.splitlines())
            found[row["Id"]] = (row["SubState"], row.get("Job", ""))
        return found

    def close(self) -> None:
        """End it, with all that is in it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        time.sleep(0.2)  # the kernel ends what is in the namespace
        for path in self._cgroups:
            for folder, _, _ in os.walk(path, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
        shutil.rmtree(self._layer, ignore_errors=True)


def _own_cgroups(name: str) -> list[Path]:
    """Make a cgroup of our own in each hierarchy, so that nothing of the host's is touched."""
    made = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, point = rest.split()[0], fields.split()[4]
        if kind in ("cgroup", "cgroup2") and os.access(f"{point}/cgroup.procs", os.W_OK):
            path = Path(point, name)
            path.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # version 1 takes nobody in without
                if kind == "cgroup" and (path / file).exists():
                    (path / file).write_text(Path(point, file).read_text("ascii"), "ascii")
            made.append(path)
    return made
