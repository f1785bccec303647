"""Say how one command line of a unit is started: program, environment, user, directories.

Knows systemd.exec(5); starts nothing itself. What it gives is an order for ``inside.py``.
"""

from __future__ import annotations

import errno
import glob
import grp
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.unitfile.environment import parse_environment_file
from kmem_harness.services.unitfile.specifiers import Directories, user_named
from kmem_harness.services.unitfile.syntax import UnitFileError
from kmem_harness.services.unitfile.words import expand_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.services.unitfile.readers import ExecCommand
    from kmem_harness.services.unitfile.settings import ServiceSettings
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["check_unit", "environment_of", "make_directories", "order_for", "remove_directories"]

_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_OUTPUTS = {
    "null": [os.devnull, os.O_WRONLY],
    "file": os.O_WRONLY | os.O_CREAT,
    "append": _APPENDING,
    "truncate": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
}


def commands_of(service: ServiceSettings) -> list[ExecCommand]:
    """List every command line of a service."""
    return [
        *(*service.exec_condition, *service.exec_start_pre, *service.exec_start),
        *(*service.exec_start_post, *service.exec_reload, *service.exec_stop),
        *service.exec_stop_post,
    ]


def check_unit(unit: Unit) -> None:
    """See that all a service names on this machine is there, before anything starts.

    Raises: UnitFileError for a program that cannot be executed, ConfigurationError for a user.
    """
    service = unit.service
    if service is None:
        return
    for command in commands_of(service):
        if _find_program(command, service) is None and not command.ignore_failure:
            raise UnitFileError(
                command.place,
                f"{command.path!r} cannot be executed: there is no such program; install it, "
                "write its whole path, or put '-' before it if it may be missing",
            )
    if os.geteuid() == 0:
        try:
            _ids(service)
        except KeyError as error:
            message = (
                f"{unit.text}: User= or Group= names one that is not there: {error}; add it, or "
                "reset the key in a drop-in"
            )
            raise ConfigurationError(message) from error


def _find_program(command: ExecCommand, service: ServiceSettings) -> str | None:
    if os.path.isabs(command.path):
        found = os.path.isfile(command.path) and os.access(command.path, os.X_OK)
        return command.path if found else None
    return shutil.which(command.path, path=":".join(service.search_path) or _SEARCH_PATH)


def _ids(service: ServiceSettings) -> tuple[int | None, int | None, list[int] | None]:
    """Give user, group and supplementary groups to change to, if this user can. Raises: KeyError."""
    if os.geteuid() != 0 or not (service.user or service.group):
        return None, None, None
    account = user_named(service.user) if service.user else None
    uid = account.pw_uid if account else None
    gid = account.pw_gid if account else None
    if service.group:
        gid = int(service.group) if service.group.isdigit() else grp.getgrnam(service.group).gr_gid
    groups = os.getgrouplist(account.pw_name, gid or 0) if account else [gid or 0]
    groups += [grp.getgrnam(name).gr_gid for name in service.supplementary_groups]
    return uid, gid, groups


def environment_of(unit: Unit, directories: Directories, more: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of a process: systemd's own variables, *more*, and the unit's.

    Raises: OSError for an ``EnvironmentFile=`` that must be there and is not.
    """
    service = unit.service
    assert service is not None  # noqa: S101 - only services have processes
    environment = {"PATH": ":".join(service.search_path) or _SEARCH_PATH}
    if "LANG" in os.environ:
        environment["LANG"] = os.environ["LANG"]
    if service.user or os.geteuid() != 0:
        account = user_named(service.user if os.geteuid() == 0 else None)
        environment |= {"HOME": account.pw_dir, "SHELL": account.pw_shell}
        environment |= dict.fromkeys(("USER", "LOGNAME"), account.pw_name)
    for variable, base, names, _ in _directory_rows(service, directories):
        if names:
            environment[variable] = ":".join(f"{base}/{name}" for name in names)
    environment |= more
    environment |= {
        name: os.environ[name] for name in service.pass_environment if name in os.environ
    }
    environment |= dict(word.split("=", 1) for word in service.environment)
    for pattern in service.environment_files:
        environment |= _read_environment(pattern)
    for word in service.unset_environment:
        name, equals, value = word.partition("=")
        if not equals or environment.get(name) == value:
            environment.pop(name, None)
    return environment


def _read_environment(pattern: str) -> dict[str, str]:
    """Read the files of an ``EnvironmentFile=``. Raises: OSError unless it begins with ``-``."""
    path = pattern.removeprefix("-")
    may_fail = pattern != path
    found: dict[str, str] = {}
    paths = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
    if not paths and not may_fail:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    for one in paths:
        found |= _read_environment_file(one, may_fail=may_fail)
    return found


def _read_environment_file(path: str, *, may_fail: bool) -> dict[str, str]:
    try:
        return dict(parse_environment_file(Path(path).read_text(encoding="utf-8")))
    except OSError:
        if not may_fail:
            raise
    except UnicodeDecodeError as error:
        if not may_fail:
            raise OSError(errno.EINVAL, "not UTF-8", path) from error
    return {}


def order_for(unit: Unit, command: ExecCommand, environment: Mapping[str, str]) -> dict[str, Any]:
    """Say how to start *command*, as the fields of a spawn order."""
    service = unit.service
    assert service is not None  # noqa: S101 - as above
    argv = list(command.argv)
    if command.expand_environment:
        argv = [argv[0], *expand_arguments(argv[1:], environment)]
    uid, gid, groups = (None, None, None) if command.privileged else _ids(service)
    cwd = (service.working_directory or "/").removeprefix("-")
    stdout = _output(service.standard_output)
    stderr = stdout if service.standard_error == "inherit" else _output(service.standard_error)
    if service.standard_error == "inherit" and stdout is not None:
        stderr = 1
    source = service.standard_input
    return {
        "path": _find_program(command, service) or command.path,
        "argv": argv,
        "env": dict(environment),
        "cwd": environment.get("HOME", "/") if cwd == "~" else cwd,
        "cwd_may_fail": (service.working_directory or "").startswith("-"),
        "umask": service.umask,
        "nice": service.nice,
        "oom_score": service.oom_score_adjust,
        "ignore_sigpipe": service.ignore_sigpipe,
        "limits": list(
            {name: (name, soft, hard) for name, soft, hard in service.resource_limits}.values()
        ),
        "uid": uid,
        "gid": gid,
        "groups": groups,
        "stdin": [source[5:], os.O_RDONLY] if source.startswith("file:") else None,
        "stdout": stdout,
        "stderr": stderr,
    }


def _output(setting: str) -> Any:
    kind, _, path = setting.partition(":")
    flags = _OUTPUTS.get(kind)
    return flags if flags is None or isinstance(flags, list) else [path, flags]


def _directory_rows(
    service: ServiceSettings, directories: Directories
) -> list[tuple[str, str, list[str], int]]:
    """List variable, base, names and mode of each kind of directory."""
    kinds = ("runtime", "state", "cache", "logs", "configuration")
    return [
        (
            f"{kind.upper()}_DIRECTORY",
            getattr(directories, kind),
            getattr(service, f"{kind}_directory"),
            getattr(service, f"{kind}_directory_mode"),
        )
        for kind in kinds
    ]


def make_directories(service: ServiceSettings, directories: Directories) -> None:
    """Make what ``RuntimeDirectory=`` and its like ask for, for the service's user."""
    uid, gid, _ = _ids(service)
    for base in (directories.runtime, *(row[1] for row in _directory_rows(service, directories))):
        Path(base).mkdir(mode=0o755, parents=True, exist_ok=True)
    for _, base, names, mode in _directory_rows(service, directories):
        for name in names:
            path = Path(base, name)
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            path.chmod(mode)
            if uid is not None or gid is not None:
                os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)


def remove_directories(
    service: ServiceSettings, directories: Directories, *, restarting: bool
) -> None:
    """Remove the runtime directories of a service that has ended."""
    keep = service.runtime_directory_preserve
    if keep == "yes" or (keep == "restart" and restarting):
        return
    for name in service.runtime_directory:
        shutil.rmtree(Path(directories.runtime, name), ignore_errors=True)
