"""Answer the OCI wrapper: write a container's limit into its config.json before it is created.

Source: the OCI runtime specification's config.md and config-linux.md (v1.0.2 on).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.loop import OUT_OF_DESCRIPTORS
from kmem_harness.core.errors import ConfigurationError, KmemHarnessError
from kmem_harness.interposer.profile import ALLOW_ALL
from kmem_harness.runtimes.native import takes_killable
from kmem_harness.serve.profiles import static_profile
from kmem_harness.serve.state import is_id
from kmem_harness.terms import Terms

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from kmem_harness.controller.loop import Loop
    from kmem_harness.harness import Harness

__all__ = ["ENVIRONMENT", "WrapperDoor", "limit_config", "terms_of"]

#: What a container's environment says its limit with, where annotations do not come through.
ENVIRONMENT = "KMEM_HARNESS_LIMIT"
_MOST_REQUEST = 1 << 15
_MOST_CONFIG = 64 << 20
_PATIENCE_SECONDS = 10.0
_WORDS = 4
_ASK_SECONDS = 5.0


class WrapperDoor:
    """Wait for wrappers: each says ``create``, an id, a bundle and its runtime, with NULs between."""

    def __init__(self, loop: Loop, listening: socket.socket, harness: Harness, door: Path) -> None:
        """Accept at *listening*; containers are to hand their listeners over at *door*."""
        self._loop = loop
        self._listening = listening
        self._harness = harness
        self._door = door
        self._said: dict[socket.socket, bytes] = {}
        self._killable: dict[str, bool] = {}
        listening.setblocking(False)
        listening.listen()
        loop.watch(listening.fileno(), self._accept)

    def close(self) -> None:
        """Hang up."""
        for each in list(self._said):
            self._drop(each)
        self._loop.forget(self._listening.fileno())

    def _accept(self, _: int) -> None:
        try:
            connection, _address = self._listening.accept()
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                self._loop.rest(self._listening, self._accept)
            return
        connection.setblocking(False)
        self._said[connection] = b""
        self._loop.watch(connection.fileno(), self._hearer(connection))
        self._loop.call_later(_PATIENCE_SECONDS, partial(self._drop, connection))

    def _hearer(self, connection: socket.socket) -> Callable[[int], None]:
        return lambda _: self._hear(connection)

    def _hear(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_MOST_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        self._said[connection] += data
        if data and len(self._said[connection]) < _MOST_REQUEST:
            return
        answer = self._answer(self._said[connection])
        with contextlib.suppress(OSError):
            connection.sendall(answer.encode())
        self._drop(connection)

    def _answer(self, said: bytes) -> str:
        try:
            words = [os.fsdecode(word) for word in said.split(b"\0")[:-1]]
            if len(words) != _WORDS or words[0] != "create" or not is_id(words[1]):
                return "this is no request of kmem-runtime\n"
            _, _, bundle, runtime = words
            if runtime not in self._killable:
                self._killable[runtime] = _asks_killable(runtime)
            limit_config(Path(bundle), self._harness, self._door, killable=self._killable[runtime])
        except (KmemHarnessError, OSError) as error:
            return f"{error}\n"
        except Exception as error:  # noqa: BLE001 - one container's config is not the others'
            return f"the container's config.json cannot be used: {error!r}\n"
        return "ok\n"

    def _drop(self, connection: socket.socket) -> None:
        if self._said.pop(connection, None) is not None:
            self._loop.forget(connection.fileno())
            connection.close()


def limit_config(bundle: Path, harness: Harness, door: Path, *, killable: bool) -> None:
    """Put the limit that a bundle's config.json asks for into its seccomp profile, if it asks for one.

    Raises: ConfigurationError for terms that mean nothing, and for what cannot be held; OSError.
    """
    file = bundle / "config.json"
    if file.stat().st_size > _MOST_CONFIG:
        raise ConfigurationError(f"{file} is over {_MOST_CONFIG} bytes long")
    config = json.loads(file.read_bytes())
    terms = terms_of(config)
    if terms is None:
        return
    linux = config.setdefault("linux", {})
    namespaces = linux.get("namespaces") or []
    if not any(one.get("type") == "pid" and not one.get("path") for one in namespaces):
        raise ConfigurationError(
            "a container whose tasks are to be counted needs a pid namespace of its own: leave out --pid"
        )
    base = linux.get("seccomp") or ALLOW_ALL
    linux["seccomp"] = static_profile(harness, base, terms._replace(killable=killable), door)
    memory = (linux.get("resources") or {}).get("memory") or {}
    memory.pop("kernel", None)  # else the runtime would try the kernel's own, or fail
    made = file.with_name(f"{file.name}.kmem-harness")
    made.write_text(json.dumps(config), encoding="utf-8")
    made.chmod(stat.S_IMODE(file.stat().st_mode))
    made.replace(file)


def terms_of(config: dict[str, Any]) -> Terms | None:
    """Read what a config.json asks for: by annotation, environment, or ``memory.kernel``.

    Raises: ConfigurationError.
    """
    terms = Terms.of_labels(config.get("annotations"))
    if terms is not None:
        return terms
    for word in (config.get("process") or {}).get("env") or []:
        name, equals, value = word.partition("=")
        if name == ENVIRONMENT and equals:
            return Terms.of_fields({"limit": value}, f"environment {ENVIRONMENT}")
    resources = (config.get("linux") or {}).get("resources") or {}
    limit = (resources.get("memory") or {}).get("kernel") or 0
    if limit > 0:
        return Terms.of_fields({"limit": limit}, "linux.resources.memory.kernel")
    return None


def _asks_killable(runtime: str) -> bool:
    """Ask a runtime whether it keeps signals from a call that waits for its answer."""
    said = subprocess.run(
        [runtime, "--version"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
    )
    found = re.search(r"^(runc|crun) version (\S+)", said.stdout, re.MULTILINE)
    return found is not None and takes_killable(found[1], found[2])
