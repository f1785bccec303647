"""Rewrite an engine's create request so that the container starts under the shim. Pure.

Knows the request and the image's configuration as JSON, as the Docker Engine API has them; talks
to nobody. Source: moby's runconfig merge (daemon/commit.go, v20.10) for what an image lends.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "PREFIX",
    "check_config",
    "command_of",
    "is_wrapped",
    "own_words",
    "set_command",
    "wrap",
    "wrap_command",
]

#: Where the shim and its socket's directory are to be found in the container.
_SHIM = "/.kmem-harness/shim"
_RUN = "/.kmem-harness/run"
#: What a wrapped command begins with.
PREFIX = [_SHIM, f"{_RUN}/shim.sock"]

_SHELL = ["/bin/sh", "-c"]
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def command_of(config: Mapping[str, Any], image: Mapping[str, Any]) -> list[str]:
    """Say what a container would run: the request's words, and the image's where it has none.

    Raises: ConfigurationError if that is nothing.
    """
    entrypoint, command = _entrypoint_and_command(config, image)
    words = [*entrypoint, *command]
    if not words:
        raise ConfigurationError(
            f"image {config.get('Image')!r} names no command, and none was given; give one"
        )
    return words


def own_words(config: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a container of *config* would have where the shim takes its place.

    Shape: Entrypoint, Cmd and, if there is one, Healthcheck, none of which an engine would take from
    elsewhere.
    """
    entrypoint, command = _entrypoint_and_command(config, image)
    lent = (image.get("Config") or {}).get("Healthcheck") or {}
    healthcheck = {**lent, **(config.get("Healthcheck") or {})}
    own: dict[str, Any] = {"Entrypoint": entrypoint, "Cmd": command}
    return {**own, "Healthcheck": healthcheck} if healthcheck.get("Test") else own


def check_config(config: Mapping[str, Any], image: Mapping[str, Any]) -> None:
    """Refuse what could not be held or counted. Raises: ConfigurationError, UnsupportedHostError."""
    host = config.get("HostConfig") or {}
    if host.get("PidMode"):
        raise ConfigurationError(
            f"pid_mode={host['PidMode']!r}: a container whose tasks are to be counted needs a pid "
            "namespace of its own; leave pid_mode out"
        )
    ours = _ARCHITECTURES.get(platform.machine(), platform.machine())
    theirs = image.get("Architecture") or ours
    if theirs != ours:
        raise UnsupportedHostError(
            f"image {config.get('Image')!r} is for {theirs}, and this machine is {ours}: calls "
            "under an emulator cannot be told apart",
            missing=f"an image for {ours}",
            remedy=f"build or pull it for {ours}",
        )


def set_command(config: dict[str, Any], command: Sequence[str]) -> None:
    """Have *config* run *command*, in place, whatever the image's own entrypoint is."""
    config["Entrypoint"] = list(command)
    config["Cmd"] = None


def wrap(
    config: dict[str, Any],
    image: Mapping[str, Any],
    command: Sequence[str],
    shim: str,
    socket: str,
) -> None:
    """Have *config* run *command* under the *shim*, which reports to *socket*, in place."""
    config["Entrypoint"] = list(PREFIX)
    config["Cmd"] = list(command)
    host = config.setdefault("HostConfig", {})
    # A bind that cannot be made is an error as a mount, and an empty directory as a "Binds".
    host["Mounts"] = [
        *(host.get("Mounts") or []),
        *(
            {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
            # The directory, not the socket: that would go stale if it were made again.
            for source, target in ((shim, _SHIM), (os.path.dirname(socket), _RUN))
        ),
    ]
    healthcheck = _wrap_healthcheck(config.get("Healthcheck") or {}, image.get("Config") or {})
    if healthcheck is not None:
        config["Healthcheck"] = healthcheck


def wrap_command(command: Sequence[str]) -> list[str]:
    """Have a further command of a wrapped container run under the shim."""
    return [*PREFIX, *command]


def is_wrapped(words: Sequence[str]) -> bool:
    """Say whether a command runs under the shim."""
    return list(words[: len(PREFIX)]) == PREFIX


def _wrap_healthcheck(own: dict[str, Any], lent: Mapping[str, Any]) -> dict[str, Any] | None:
    # The engine runs it with exec, beside the container's first process.
    test = own.get("Test") or (lent.get("Healthcheck") or {}).get("Test") or []
    if not test or test[0] == "NONE":
        return None
    words = [*(lent.get("Shell") or _SHELL), *test[1:]] if test[0] == "CMD-SHELL" else test[1:]
    return {**own, "Test": ["CMD", *wrap_command(words)]}


def _entrypoint_and_command(
    config: Mapping[str, Any], image: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    lent = image.get("Config") or {}
    entrypoint, command = _words(config.get("Entrypoint")), _words(config.get("Cmd"))
    if not entrypoint:
        if not command:
            command = _words(lent.get("Cmd"))
        if entrypoint is None:
            entrypoint = _words(lent.get("Entrypoint"))
    return [] if entrypoint == [""] else entrypoint or [], command or []


def _words(value: Any) -> list[str] | None:
    if value is None:
        return None
    return [value] if isinstance(value, str) else list(value)
