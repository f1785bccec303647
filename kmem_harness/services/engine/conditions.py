"""Look at ``ConditionXYZ=`` and ``AssertXYZ=`` of a unit. Knows this machine; knows no jobs."""

from __future__ import annotations

import fnmatch
import glob
import grp
import os
import platform
import pwd
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.services.unitfile.readers import Condition

__all__ = ["first_unmet"]


def first_unmet(conditions: Sequence[Condition]) -> Condition | None:
    """Give the first condition that does not hold, ``None`` if the unit may start.

    Of those marked with ``|`` one is enough.
    """
    triggers = [one for one in conditions if one.trigger]
    for one in conditions:
        if not one.trigger and not _holds(one):
            return one
    if triggers and not any(_holds(one) for one in triggers):
        return triggers[0]
    return None


def _holds(condition: Condition) -> bool:
    return _TESTS[condition.kind](condition.argument) != condition.negated


def _directory_not_empty(path: str) -> bool:
    return Path(path).is_dir() and any(Path(path).iterdir())


def _is_user(name: str) -> bool:
    if name == "@system":
        return os.geteuid() < 1000 or os.geteuid() == 65534  # noqa: PLR2004 - Debian's own bounds
    return name in (str(os.geteuid()), pwd.getpwuid(os.geteuid()).pw_name)


def _is_group(name: str) -> bool:
    groups = {os.getegid(), *os.getgroups()}
    if name.isdigit():
        return int(name) in groups
    try:
        return grp.getgrnam(name).gr_gid in groups
    except KeyError:
        return False


def _has_variable(text: str) -> bool:
    name, equals, value = text.partition("=")
    return os.environ.get(name) == value if equals else name in os.environ


def _on_kernel_command_line(text: str) -> bool:
    words = Path("/proc/cmdline").read_text(encoding="utf-8", errors="replace").split()
    return text in words or any(word.partition("=")[0] == text for word in words)


_ARCHITECTURES = {"x86_64": "x86-64", "aarch64": "arm64"}

_TESTS: dict[str, Callable[[str], bool]] = {
    "PathExists": os.path.exists,
    "PathExistsGlob": lambda pattern: bool(glob.glob(pattern)),
    "PathIsDirectory": os.path.isdir,
    "PathIsSymbolicLink": os.path.islink,
    "PathIsMountPoint": os.path.ismount,
    "PathIsReadWrite": lambda path: os.access(path, os.W_OK),
    "DirectoryNotEmpty": _directory_not_empty,
    "FileNotEmpty": lambda path: Path(path).is_file() and Path(path).stat().st_size > 0,
    "FileIsExecutable": lambda path: Path(path).is_file() and os.access(path, os.X_OK),
    "User": _is_user,
    "Group": _is_group,
    "Host": lambda pattern: fnmatch.fnmatch(socket.gethostname().lower(), pattern.lower()),
    "Architecture": lambda name: (
        name in ("native", _ARCHITECTURES.get(platform.machine(), platform.machine()))
    ),
    "Environment": _has_variable,
    "KernelCommandLine": _on_kernel_command_line,
}
