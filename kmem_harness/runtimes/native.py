"""Choose who installs a container's filter, our shim or the engine's runtime, and have it done.

The runtime's own way (``listenerPath`` in the seccomp profile) covers every exec without wrapping
it, whoever asks for it, and needs nothing in the container. It takes an engine that passes the path
on (Docker from 23 on, podman) and the whole of the profile that the container would have had.
Before runc 1.5 and Linux 5.19 it also lacks WAIT_KILLABLE_RECV: there, a signal interrupts a call that waits for
its answer, so that programs with timers see EINTR, or start over for ever. And it binds what the
runtime itself does on the way into a container, and an init of the engine's: under that (``init=``),
the command is a process that was made inside, and is charged.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from kmem_harness.interposer.filter import FILTER_FLAGS
from kmem_harness.interposer.profile import ALLOW_ALL, WAIT_KILLABLE, see_no_listener
from kmem_harness.procfs.libc import libc
from kmem_harness.runtimes.default_profiles import default_profile, version_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LISTENERS", "NativeListener", "check_listener", "read_profile", "takes_killable"]

LISTENERS = ("auto", "shim", "native")

#: The first Docker that passes listenerPath on to its runtime.
_DOCKER = (23,)
#: The first that take WAIT_KILLABLE_RECV from a profile (crun: the first it was tried with).
_KILLABLE = {"runc": (1, 5), "crun": (1, 8)}
#: The first kernel that does.
_KILLABLE_KERNEL = (5, 19)
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1
#: Where podman looks for its default profile, if its settings name none.
_PODMAN_PROFILES = ("/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json")
_OPTION = re.compile(r"seccomp[=:]")
_BUILT_IN = ("", "default", "builtin")


def check_listener(listener: str) -> str:
    """Give *listener* if it is one. Raises: ConfigurationError."""
    if listener not in LISTENERS:
        known = ", ".join(repr(one) for one in LISTENERS)
        raise ConfigurationError(f"docker listener {listener!r} is not known; known are {known}")
    return listener


class NativeListener:
    """What one engine's runtime can do, and the profiles it would use."""

    def __init__(self, client: Any, version: Mapping[str, Any]) -> None:
        """Learn from the engine's *version*; ask *client* for more where that is needed."""
        self._client = client
        rows = {row["Name"]: row["Version"] for row in version.get("Components") or []}
        self._is_podman = "Podman Engine" in rows
        self._version = str(version.get("Version"))
        #: Whether it passes listenerPath on.
        self.possible = self._is_podman or version_number(self._version) >= _DOCKER
        #: Flags for the filter: which of ours its runtime takes.
        self.flags: list[str] = []
        if any(takes_killable(*row, version) for row in rows.items()):
            self.flags = [WAIT_KILLABLE]
        self._default: dict[str, Any] | None = None

    def chosen(self, asked: str, config: Mapping[str, Any]) -> bool:
        """Say whether a container of *config* shall have its filter from the runtime.

        "auto" takes that where it has no drawback. Raises: UnsupportedHostError if it was asked for
        and the engine cannot.
        """
        if asked == "native" and not self.possible:
            raise UnsupportedHostError(
                f"{self.name} drops the listenerPath of a seccomp profile: its runtime cannot "
                "hand over a listener",
                missing="an engine that passes listenerPath on",
                remedy="use Docker 23 or later, or podman; or the shim (--docker-listener shim)",
            )
        if asked == "auto":
            host = config.get("HostConfig") or {}
            usual = not any(host.get(name) for name in ("Init", "Privileged", "Runtime"))
            return self.possible and bool(self.flags) and usual and self._has_profile()
        return asked == "native"

    def put_into(
        self, config: dict[str, Any], listen: Callable[..., tuple[dict[str, Any], str]]
    ) -> None:
        """Have the runtime of a container of *config* listen, in place.

        *listen* takes the profile it would have had, and gives what it shall have and the path of a
        file for it. Raises: ConfigurationError for a profile that cannot be used.
        """
        host = config.setdefault("HostConfig", {})
        given = [option for option in host.get("SecurityOpt") or [] if _OPTION.match(option)]
        others = [option for option in host.get("SecurityOpt") or [] if option not in given]
        base = self._profile(_OPTION.sub("", given[-1], count=1) if given else "")
        profile, path = listen(base, self.flags)
        text = json.dumps(profile, separators=(",", ":"))
        if self._is_podman:  # which takes the name of a file, and reads it when it creates
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        host["SecurityOpt"] = [*others, f"seccomp={path if self._is_podman else text}"]

    def see_no_other(self, config: Mapping[str, Any]) -> None:
        """See that a container of *config* is told of no listener but ours.

        Raises: ConfigurationError, also for a profile that cannot be read.
        """
        options = (config.get("HostConfig") or {}).get("SecurityOpt") or []
        given = [_OPTION.sub("", one, count=1) for one in options if _OPTION.match(one)]
        if given and given[-1] not in (*_BUILT_IN, "unconfined"):
            see_no_listener(self._profile(given[-1]))

    def _profile(self, given: str) -> dict[str, Any]:
        """Read the profile that an option of a container asks for, or else its engine's default."""
        if given == "unconfined":
            return ALLOW_ALL
        if given.lstrip().startswith("{"):
            return _parse(given, "security_opt seccomp=")
        if given not in _BUILT_IN:
            return read_profile(given)
        return self.default()

    def _has_profile(self) -> bool:
        """Say whether the engine's default profile is known."""
        try:
            self.default()
        except ConfigurationError:
            return False
        return True

    def default(self) -> dict[str, Any]:
        """Give what the engine gives a container that asks for nothing: its own, and no other's.

        Raises: ConfigurationError where that is not known.
        """
        if self._default is None:
            path = self._configured()
            if path == "unconfined":
                self._default = ALLOW_ALL
            elif path:
                self._default = read_profile(path)
            else:
                engine = "podman" if self._is_podman else "docker"
                try:
                    self._default = default_profile(engine, self._version)
                except ConfigurationError as error:
                    raise ConfigurationError(
                        f"{error} (security_opt=['seccomp=FILE']), or use the shim "
                        "(--docker-listener shim)"
                    ) from error
        return self._default

    @property
    def name(self) -> str:
        """Name the engine and its version."""
        return f"{'podman' if self._is_podman else 'Docker'} {self._version}"

    def _configured(self) -> str:
        """Ask the engine for the path of its default profile; empty if it is built in."""
        if self._is_podman:
            answer = self._client.api.get("http+docker://localhost/v4.0.0/libpod/info")
            answer.raise_for_status()
            named = answer.json()["host"]["security"].get("seccompProfilePath") or ""
            candidates = [named] if named else list(_PODMAN_PROFILES)
            return next((one for one in candidates if os.path.isfile(one)), "")
        for option in self._client.info().get("SecurityOptions") or []:
            fields = dict(field.split("=", 1) for field in option.split(",") if "=" in field)
            if fields.get("name") == "seccomp":
                return "" if fields.get("profile", "") in _BUILT_IN else fields["profile"]
        return ""


def takes_killable(
    runtime: str, text: str, engine: Mapping[str, Any] = MappingProxyType({})
) -> bool:
    """Say whether a runtime of version *text*, and its kernel, keep signals from a call that waits."""
    takes = any(
        name in runtime and version_number(text) >= first for name, first in _KILLABLE.items()
    )
    return takes and _kernel_takes_flags(engine)


def _kernel_takes_flags(version: Mapping[str, Any]) -> bool:
    """Say whether the engine's kernel keeps signals from a call that waits, by asking it.

    One elsewhere is taken by its number.
    """
    release = version.get("KernelVersion") or platform.release()
    if release != platform.release():
        return version_number(release) >= _KILLABLE_KERNEL
    # Without a filter: flags are judged before it is looked for, in vain.
    libc().syscall(_SECCOMP[platform.machine()], _SET_MODE_FILTER, FILTER_FLAGS, None)
    return ctypes.get_errno() == errno.EFAULT


def read_profile(path: str) -> dict[str, Any]:
    """Read a seccomp profile from a file. Raises: ConfigurationError."""
    try:
        with open(path, encoding="utf-8") as file:
            return _parse(file.read(), path)
    except OSError as error:
        raise ConfigurationError(
            f"seccomp profile {path!r}: {error.strerror}; name a file that can be read"
        ) from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        profile = json.loads(text)
        if isinstance(profile, dict) and isinstance(profile.get("defaultAction"), str):
            return profile
    except ValueError:
        pass
    raise ConfigurationError(
        f"seccomp profile {where!r} is no JSON object with a defaultAction; see Docker's "
        "documentation of seccomp profiles"
    )
