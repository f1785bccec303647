"""Label containers and images with whose they are, and sweep those whose owner is gone.

An owner is a process: its pid, when it started, and the pid namespace and boot that number is from.
What another of those owns is left alone, for from here it always looks dead.
"""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker.errors

from kmem_harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from kmem_harness.box import Box
    from kmem_harness.runtimes.spec import ContainerSpec

__all__ = ["BOX", "COMMAND", "KEPT", "OURS", "OWNER", "SESSION", "Labels", "owner_label", "sweep"]

_PREFIX = "io.github.kmem-harness."
OWNER = f"{_PREFIX}owner"
SESSION = f"{_PREFIX}session"
WORKER = f"{_PREFIX}worker"
MEMCG = f"{_PREFIX}memcg"
#: Names the box that a container is created for; taken off again before the engine sees it.
BOX = f"{_PREFIX}box"
#: What a container runs, as a JSON list: its entrypoint may be our shim.
COMMAND = f"{_PREFIX}command"
#: The labels of a container that are not its image's, nor those of an image that is made of it.
OURS = (OWNER, SESSION, WORKER, MEMCG, COMMAND)
#: How the names of containers begin that were left with their engine on purpose.
KEPT = "kmem-kept-"


class Labels:
    """Our own plugin that labels every container."""

    def __init__(self, session: str) -> None:
        """Label with *session*, which is one harness."""
        self._session = session

    @hookimpl(tryfirst=True)
    def kmem_before_create(self, box: Box, spec: ContainerSpec) -> None:
        """Say whose it is."""
        spec.labels.update(
            {
                OWNER: owner_label(),
                SESSION: self._session,
                WORKER: os.environ.get("PYTEST_XDIST_WORKER", "main"),
                MEMCG: box.memcg.path,
            }
        )


def owner_label() -> str:
    """Name this process so that no later one has the same name."""
    return f"{os.getpid()}:{_started(os.getpid())}:{_namespace()}"


def sweep(api: Any) -> list[str]:
    """Remove what owners that are gone have left on an engine; give the names of its containers."""
    swept = []
    for row in api.containers(all=True, filters={"label": OWNER}):
        if any(name.startswith(f"/{KEPT}") for name in row.get("Names") or ()):
            continue
        if _is_orphan(row):
            with suppress(docker.errors.APIError):  # somebody else sweeps, too
                api.remove_container(row["Id"], force=True, v=True)
                swept.append((row.get("Names") or [row["Id"]])[0].lstrip("/"))
    for row in api.images(filters={"label": OWNER}):
        if _is_orphan(row):
            with suppress(docker.errors.APIError):
                api.remove_image(row["Id"], force=True)
    return swept


def _is_orphan(row: dict[str, Any]) -> bool:
    pid, started, namespace = f"{row['Labels'].get(OWNER, '')}::".split(":")[:3]
    return namespace == _namespace() and not (pid.isdigit() and _started(int(pid)) == started)


@functools.cache
def _namespace() -> str:
    # Alone, the first namespace's number is the same on every machine.
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
        return f"{os.readlink('/proc/self/ns/pid').strip('pid:[]')}.{boot.read().strip()}"


def _started(pid: int) -> str:
    """Give when *pid* started, in clock ticks since boot; empty if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b") ")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")
