"""Find a container engine for the tests, and look at its containers from outside.

Knows engines, procfs and cgroups; imports nothing of the harness. An engine that is missing is a
skip with the reason, and a failure where KMEM_HARNESS_REQUIRE asks for everything.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "PATIENCE_SECONDS",
    "Engine",
    "cannot_run",
    "cgroup_of",
    "docker_engine",
    "peak_until",
    "pids_peak",
    "podman_engine",
    "without_hybrid_cgroups",
]

PATIENCE_SECONDS = 30.0
#: Where a podman that somebody else started listens, such as the one .ci/run starts for all users.
PODMAN_HOST = "KMEM_HARNESS_PODMAN_HOST"


@dataclass(frozen=True)
class Engine:
    """An engine that answers: its name, its address, and a docker-py client of it."""

    name: str
    host: str
    client: Any


def cannot_run(reason: str) -> NoReturn:
    """Skip with *reason*, or fail with it where nothing may be skipped."""
    if os.environ.get("KMEM_HARNESS_REQUIRE", "0") not in {"", "0"}:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def docker_engine() -> Iterator[Engine]:
    """Give the engine of $DOCKER_HOST, or of the usual socket."""
    import docker
    from docker.errors import DockerException

    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except DockerException as error:
        cannot_run(
            f"no Docker engine answers at {host} (start dockerd, or set DOCKER_HOST): {error}"
        )
    try:
        yield Engine("docker", host, client)
    finally:
        client.close()


@contextmanager
def podman_engine() -> Iterator[Engine]:
    """Give podman's Docker-compatible service: the one of $KMEM_HARNESS_PODMAN_HOST, or our own."""
    import docker

    with _podman_host() as host:
        client = docker.DockerClient(base_url=host, timeout=60)
        try:
            client.ping()
            yield Engine("podman", host, client)
        finally:
            client.close()


@contextmanager
def _podman_host() -> Iterator[str]:
    given = os.environ.get(PODMAN_HOST)
    if given:
        yield given
        return
    if os.geteuid() != 0:  # a skip everywhere: its containers are for root to count
        pytest.skip(f"podman's service is started by root only: start one, and set {PODMAN_HOST}")
    if shutil.which("podman") is None:
        cannot_run("there is no podman here: install podman, crun and catatonit")
    scratch = Path(tempfile.mkdtemp(prefix="kmem-podman-"))
    options = ["--root", str(scratch / "root"), "--runroot", str(scratch / "run")]
    # No systemd is needed, nor asked.
    options += ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "crun"]
    path = scratch / "podman.sock"
    log = scratch / "log"
    # Its own default asks for more than a machine's root may be given.
    settings = scratch / "containers.conf"
    settings.write_text(f"[containers]\ndefault_ulimits = {_hard_limits()}\n")
    with log.open("wb") as output:
        service = subprocess.Popen(
            [
                *without_hybrid_cgroups(),
                "podman",
                *options,
                "system",
                "service",
                "--time=0",
                f"unix://{path}",
            ],
            cwd=scratch,  # where its monitor leaves a note of an OOM kill
            env={**os.environ, "CONTAINERS_CONF": str(settings)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        try:
            until(lambda: _listens(path), PATIENCE_SECONDS, "nothing listens on its socket")
        except TimeoutError as error:
            cannot_run(f"podman does not start: {error}\n{log.read_text()[-2000:]}")
        yield f"unix://{path}"
    finally:
        service.terminate()
        service.wait(PATIENCE_SECONDS)
        clean_up = [
            *without_hybrid_cgroups(),
            "podman",
            *options,
            "rm",
            "--all",
            "--force",
            "--time",
            "0",
        ]
        subprocess.run(clean_up, capture_output=True, check=False)
        _remove_tree(scratch)


def _listens(path: Path) -> bool:
    """Whether somebody accepts connections there: the socket itself is made a little earlier."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def without_hybrid_cgroups() -> list[str]:
    """Begin a command with mounts of its own, without the half of a hybrid setup that crun refuses."""
    hybrid = "/sys/fs/cgroup/unified"
    script = f'if [ -d {hybrid} ]; then umount {hybrid}; fi; exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def _hard_limits() -> list[str]:
    limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(limit)[1] for name, limit in limits.items()}
    # Podman lowers its own to this, and then could not raise a container's again.
    hard["nproc"] = min(hard["nproc"], int(Path("/proc/sys/kernel/pid_max").read_text()))
    return [f"{name}={most}:{most}" for name, most in hard.items()]


def _remove_tree(directory: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if mount.startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
    shutil.rmtree(directory, ignore_errors=True)


def cgroup_of(pid: int) -> Path:
    """Find the directory of the pids cgroup of a process.

    Raises: FileNotFoundError if there is none that can be seen from here.
    """
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        top = {"pids": "/sys/fs/cgroup/pids", "": "/sys/fs/cgroup"}.get(controllers)
        if top is not None and Path(f"{top}{path}", "pids.peak").exists():
            return Path(f"{top}{path}")
    raise FileNotFoundError(f"no pids.peak for process {pid}")


def peak_until(container: Any, met: Callable[[], bool]) -> int:
    """Let a bomb burn until it has *met* its limit, however slow the machine is; end it.

    Gives its most tasks alive at once, by the kernel's own count.
    """
    container.reload()
    file = cgroup_of(container.attrs["State"]["Pid"]) / "pids.peak"
    until(met, PATIENCE_SECONDS, "the bomb met no limit")
    peak = int(file.read_text())
    container.kill()
    return peak


def pids_peak(container: Any, seconds: float, begin: Path | None = None) -> int:
    """Watch *container* until it ends, at most *seconds*, and say its most tasks alive at once.

    The kernel's own figure, of which the last reading before the cgroup went is the exact one but
    for what happened in the very last millisecond. *begin* is a file that is made once all is seen.
    """
    container.reload()
    pid = container.attrs["State"]["Pid"]
    if not pid:
        raise RuntimeError(f"{container.name} does not run")
    file = cgroup_of(pid) / "pids.peak"
    if begin is not None:
        begin.touch()
    peak = 0
    end = time.monotonic() + seconds
    with suppress(OSError):
        while time.monotonic() < end:
            peak = int(file.read_text())
            time.sleep(0.001)
    return peak
