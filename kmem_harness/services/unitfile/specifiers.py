"""Expand the ``%`` specifiers of unit files. Knows names and this machine; knows no keys."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import re
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kmem_harness.services.unitfile.environment import parse_environment_file
from kmem_harness.services.unitfile.names import UnitName, unescape

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Directories", "Specifiers", "user_named"]

_SPECIFIER = re.compile(r"%(.?)", re.DOTALL)


@dataclass(frozen=True)
class Directories:
    """Where services keep things: a tree of our own below *base*, in place of the host's.

    So an ordinary user can run a unit with ``RuntimeDirectory=`` and its like, and nothing is left
    on the host. With *of_host* they are the host's after all, for units whose programs have those
    written down elsewhere, too; *base* then holds nothing of theirs.
    """

    base: str
    of_host: bool = False

    @property
    def runtime(self) -> str:
        """``/run``, or what stands for it."""
        return self._at("run", "/run")

    @property
    def state(self) -> str:
        """``/var/lib``, or what stands for it."""
        return self._at("lib", "/var/lib")

    @property
    def cache(self) -> str:
        """``/var/cache``, or what stands for it."""
        return self._at("cache", "/var/cache")

    @property
    def logs(self) -> str:
        """``/var/log``, or what stands for it."""
        return self._at("log", "/var/log")

    @property
    def configuration(self) -> str:
        """``/etc``, or what stands for it."""
        return self._at("etc", "/etc")

    def _at(self, own: str, host: str) -> str:
        return host if self.of_host else f"{self.base}/{own}"


def user_named(name: str | None) -> pwd.struct_passwd:
    """Find a user by name or number; ours without one. Raises: KeyError."""
    if name is None:
        return pwd.getpwuid(os.geteuid())
    return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)


class Specifiers:
    """Expand specifiers for one unit."""

    def __init__(self, name: UnitName, fragment: str, directories: Directories) -> None:
        """Speak for the unit *name*, read from the file *fragment*."""
        instance = name.instance or ""
        last = name.prefix.rpartition("-")[2]
        without_suffix = name.text.rpartition(".")[0]
        self._values: dict[str, str | Callable[[], str]] = {
            "%": "%",
            "i": instance,
            "I": lambda: unescape(instance),
            "f": lambda: unescape(instance or name.prefix, path=True),
            "j": last,
            "J": lambda: unescape(last),
            "n": name.text,
            "N": without_suffix,
            "p": name.prefix,
            "P": lambda: unescape(name.prefix),
            "y": os.path.abspath(fragment),
            "Y": os.path.dirname(os.path.abspath(fragment)),
            "t": directories.runtime,
            "S": directories.state,
            "C": directories.cache,
            "L": directories.logs,
            "E": directories.configuration,
            "d": lambda: f"{directories.runtime}/credentials/{name}",
            "T": "/tmp",  # noqa: S108 - what systemd says, too
            "V": "/var/tmp",  # noqa: S108
            "H": socket.gethostname,
            "l": lambda: socket.gethostname().partition(".")[0],
            "q": socket.gethostname,
            "v": platform.release,
            "a": lambda: {"x86_64": "x86-64", "aarch64": "arm64"}.get(
                platform.machine(), platform.machine()
            ),
            "m": lambda: _read("/etc/machine-id"),
            "b": lambda: _read("/proc/sys/kernel/random/boot_id").replace("-", ""),
            "u": lambda: user_named(None).pw_name,
            "U": lambda: str(user_named(None).pw_uid),
            "g": lambda: grp.getgrgid(user_named(None).pw_gid).gr_name,
            "G": lambda: str(user_named(None).pw_gid),
            "h": lambda: user_named(None).pw_dir,
            "s": lambda: user_named(None).pw_shell,
            "o": lambda: _release("ID"),
            "w": lambda: _release("VERSION_ID"),
            "W": lambda: _release("VARIANT_ID"),
            "B": lambda: _release("BUILD_ID"),
            "M": lambda: _release("IMAGE_ID"),
            "A": lambda: _release("IMAGE_VERSION"),
        }

    def expand(self, text: str) -> str:
        """Replace every specifier of *text*. Raises: ValueError for one that systemd lacks."""
        if "%" not in text:
            return text
        return _SPECIFIER.sub(self._one, text)

    def _one(self, match: re.Match[str]) -> str:
        try:
            value = self._values[match[1]]
        except KeyError:
            if not match[1].isascii() or not match[1].isalnum():
                return match[0]  # as it stands, as systemd does
            raise ValueError(
                f"{match.string!r}: unknown specifier {match[0]!r}; write '%%' for a percent sign, or one of "
                f"{' '.join(sorted('%' + name for name in self._values))}"
            ) from None
        try:
            return value if isinstance(value, str) else value()
        except (KeyError, OSError) as error:
            raise ValueError(
                f"{match.string!r}: specifier {match[0]!r} has no value here: {error}"
            ) from error


def _read(path: str) -> str:
    return Path(path).read_text(encoding="ascii").strip()


@cache
def _os_release() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if Path(path).exists():
            found = dict(parse_environment_file(Path(path).read_text(encoding="utf-8")))
            break
    return found


def _release(name: str) -> str:
    return _os_release().get(name, "")
