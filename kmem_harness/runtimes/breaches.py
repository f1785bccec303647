"""Find what runs in a container outside of its filter, and report it. Knows engines' execs.

A command that another client has the engine run there (``docker exec``) is no child of our shim, and
nothing can put it under the filter any more. The engine's events tell of it; where they did not, its
processes are found by counting their filters.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import docker.errors

from kmem_harness.runtimes import wrapping
from kmem_harness.runtimes.local import SHIM

if TYPE_CHECKING:
    from kmem_harness.box import Box
    from kmem_harness.runtimes.docker import DockerRuntime

__all__ = ["Breaches"]

_EXEC_SECONDS = 0.5
_LOOK_SECONDS = 0.01
#: Looking through all processes takes a while where a bomb is burning.
_ENTRANTS_SECONDS = 0.25
#: Processes an engine puts into a container for a moment, on the way to what it runs there.
_ENGINES_OWN = ("runc", "crun", "conmon")


class Breaches:
    """The breaches of one box."""

    def __init__(self, runtime: DockerRuntime, box: Box) -> None:
        """Know of none yet."""
        self._runtime = runtime
        self._box = box
        self._found: list[dict[str, Any]] = []
        self._judged: set[str] = set()
        self._next_look = 0.0
        self._noting = threading.Lock()

    def found(self) -> list[dict[str, Any]]:
        """Give those found so far.

        Shape: ``time``, ``how`` (``"exec"`` if the engine told, else ``"found"``), ``pid``, ``command``.
        """
        with self._noting:
            return list(self._found)

    def judge(self, container_id: str, exec_id: str) -> None:
        """Note a command that somebody runs in the container, unless it runs under the shim.

        Without an *exec_id*, all that the engine knows of are looked at.
        """
        for one in [exec_id] if exec_id else self._exec_ids(container_id):
            if one not in self._judged:
                self._judged.add(one)
                self._judge(container_id, one)

    def look(self, container_id: str) -> None:
        """Note processes that are in the container and not under its filter."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _ENTRANTS_SECONDS
        known = {breach["pid"] for breach in self.found()}
        for entrant in self._box.entrants():
            if entrant["comm"].startswith(_ENGINES_OWN) or self._is_shim(entrant):
                continue
            if entrant["pid"] not in known:
                self._note(container_id, "found", entrant["pid"], [entrant["comm"]])

    def _exec_ids(self, container_id: str) -> list[str]:
        with suppress(docker.errors.APIError):
            found = self._runtime.client.api.inspect_container(container_id)
            return list(found.get("ExecIDs") or [])
        return []

    def _judge(self, container_id: str, exec_id: str) -> None:
        facts: dict[str, Any] = {}
        deadline = time.monotonic() + _EXEC_SECONDS
        with suppress(docker.errors.APIError):
            while True:
                facts = self._runtime.client.api.exec_inspect(exec_id)
                # The event comes a little before the process; podman gives 0 to one that runs.
                over = facts.get("ExitCode") is not None and not facts.get("Running")
                if facts.get("Pid") or over or time.monotonic() > deadline:
                    break
                time.sleep(_LOOK_SECONDS)
        process = facts.get("ProcessConfig")
        if not process:  # it is no more; what it has left behind is found by itself
            return
        words = [process.get("entrypoint") or "?", *(process.get("arguments") or [])]
        if not wrapping.is_wrapped(words):
            self._note(container_id, "exec", int(facts.get("Pid") or 0), words)

    def _is_shim(self, entrant: dict[str, Any]) -> bool:
        """Say whether it is a shim about to hand over its listener, or is gone."""
        if self._runtime.remote:
            return str(entrant["comm"]) == os.path.basename(wrapping.PREFIX[0])
        with suppress(OSError):
            return os.path.samestat(os.stat(f"/proc/{entrant['pid']}/exe"), os.stat(SHIM))
        return True

    def _note(self, container_id: str, how: str, pid: int, command: list[str]) -> None:
        breach = {"time": time.time(), "how": how, "pid": pid, "command": command}
        with self._noting:
            known = [one["pid"] for one in self._found]
            if pid and pid in known:  # found by two threads at once; the engine's word is better
                if how == "exec":
                    self._found[known.index(pid)] = breach
                return
            self._found.append(breach)
        self._runtime.log.warning(
            "exec.unwrapped",
            container=container_id,
            memcg=self._box.memcg.path,
            pid=pid,
            command=" ".join(command),
            remedy="run it through the container's .kmem, or a client of kmem_harness.docker",
        )
