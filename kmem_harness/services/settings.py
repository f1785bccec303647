"""What unit files can say that is acted on: one dataclass a section, its fields the table of keys.

The defaults are systemd's own. Knows how values are read; opens no files and starts nothing.
"""

from __future__ import annotations

import math
import os
import re
import signal
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from kmem_harness.costs.kinds import check_kinds
from kmem_harness.faults.rule import parse_rule
from kmem_harness.services.names import parse_name
from kmem_harness.services.values import (
    NO_LIMIT,
    ExitStatuses,
    parse_boolean,
    parse_exit_statuses,
    parse_limit,
    parse_memory,
    parse_mode,
    parse_number,
    parse_seconds,
    parse_signal,
    parse_tasks,
    parse_timeout,
)
from kmem_harness.services.words import WHITESPACE, QuotingError, next_word, split_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.services.specifiers import Specifiers
    from kmem_harness.services.syntax import Place

__all__ = [
    "RESOURCE_LIMITS",
    "Condition",
    "Context",
    "ExecCommand",
    "InstallSettings",
    "Key",
    "LimitSettings",
    "ServiceSettings",
    "UnitSettings",
    "keys_of",
]

_SMALLEST_LIMIT = 4096
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)


@dataclass(frozen=True)
class Context:
    """Where a value stands, and how its specifiers expand."""

    specifiers: Specifiers
    place: Place


@dataclass(frozen=True)
class ExecCommand:
    """One command line of ``ExecStart=`` and its like; variables are not put in yet."""

    path: str
    argv: tuple[str, ...]
    place: Place
    ignore_failure: bool = False
    expand_environment: bool = True
    #: ``+`` and ``!``: runs as the manager's own user.
    privileged: bool = False


@dataclass(frozen=True)
class Condition:
    """One ``ConditionXYZ=`` or ``AssertXYZ=``."""

    kind: str
    argument: str
    negated: bool
    #: ``|``: one of those so marked must hold.
    trigger: bool


@dataclass(frozen=True)
class Key:
    """How the values of one key are read into one field."""

    field: str
    parse: Callable[[str, Context], Any]
    many: bool
    resets: bool


def one(names: str, parse: Callable[[str], Any], default: Any) -> Any:
    """Make a field whose last assignment counts; an empty one gives back the default."""
    read = _expanded(parse) if parse in _EXPANDED else _plain(parse)
    return field(default=default, metadata={"names": names.split(), "parse": read, "many": False})


def many(names: str, parse: Callable[[str, Context], Any], *, resets: bool = True) -> Any:
    """Make a field whose assignments add up; an empty one empties it, if it *resets*."""
    return field(
        default_factory=list,
        metadata={"names": names.split(), "parse": parse, "many": True, "resets": resets},
    )


def keys_of(settings: type) -> dict[str, list[Key]]:
    """List the keys of a section by name; some set two fields."""
    found: dict[str, list[Key]] = {}
    for one_field in fields(settings):
        data = one_field.metadata
        for name in data["names"]:
            found.setdefault(name, []).append(
                Key(one_field.name, data["parse"], data["many"], data.get("resets", True))
            )
    return found


def _expanded(parse: Callable[[str], Any]) -> Callable[[str, Context], Any]:
    return lambda text, context: parse(context.specifiers.expand(text))


def _plain(parse: Callable[[str], Any]) -> Callable[[str, Context], Any]:
    return lambda text, _: parse(text)


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not known; known are {', '.join(words)}")
        return text

    return parse


def _words(text: str, context: Context) -> list[str]:
    try:
        return [context.specifiers.expand(word) for word in split_words(text)]
    except QuotingError as error:
        raise ValueError(f"{error} in {text!r}; close it, or write \\x22") from error


def _literal_words(text: str, _: Context) -> list[str]:
    return text.split()


def _text(text: str, context: Context) -> list[str]:
    return [context.specifiers.expand(text)]


def _units(text: str, context: Context) -> list[str]:
    return [parse_name(word).text for word in _words(text, context)]


def _slice(text: str) -> str:
    name = parse_name(text)
    if name.type != "slice":
        raise ValueError(f"{text!r} is not a slice; write a name such as web.slice")
    return name.text


def _statuses(text: str, _: Context) -> list[ExitStatuses]:
    return [parse_exit_statuses(text)]


def _variables(text: str, context: Context) -> list[str]:
    words = _words(text, context)
    for word in words:
        if not _VARIABLE.match(word):
            raise ValueError(
                f"{word!r} sets no variable; write NAME=VALUE, quoted if it has spaces"
            )
    return words


def _directory_names(text: str, context: Context) -> list[str]:
    names = [word.partition(":")[0] for word in _words(text, context)]
    for name in names:
        if os.path.isabs(name) or ".." in name.split("/"):
            raise ValueError(f"{name!r} is not a relative path without '..'")
    return names


def _absolute(text: str) -> str:
    bare = text.removeprefix("-").removeprefix("+")
    if not os.path.isabs(bare) and bare != "~":
        raise ValueError(f"{text!r} is not an absolute path (or ~)")
    return text


def _environment_files(text: str, context: Context) -> list[str]:
    path = context.specifiers.expand(text)
    if not os.path.isabs(path.removeprefix("-")):
        raise ValueError(f"{path!r} is not an absolute path")
    return [path]


def _kmem(text: str) -> int:
    nbytes = parse_memory(text)
    if nbytes != NO_LIMIT and nbytes < _SMALLEST_LIMIT:
        raise ValueError(
            f"{text!r} is below one page ({_SMALLEST_LIMIT} bytes): nothing could run; write more, "
            "or infinity for no limit"
        )
    return nbytes


def _injections(text: str, context: Context) -> list[str]:
    rule = context.specifiers.expand(text)
    if ":" in rule:  # else it is a name that a plugin may have given one
        parse_rule(rule)
    return [rule]


def _kinds(text: str, _: Context) -> list[str]:
    return sorted(check_kinds(text.split()))


def _conditions(kind: str) -> Callable[[str, Context], list[Condition]]:
    def parse(text: str, context: Context) -> list[Condition]:
        argument = context.specifiers.expand(text)
        trigger = argument.startswith("|")
        argument = argument.removeprefix("|").strip(WHITESPACE)
        negated = argument.startswith("!")
        argument = argument.removeprefix("!").strip(WHITESPACE)
        return [Condition(kind, argument, negated, trigger)]

    return parse


def _resource(name: str) -> Callable[[str, Context], list[tuple[str, int, int]]]:
    return lambda text, _: [(name, *parse_limit(text))]


def _commands(text: str, context: Context) -> list[ExecCommand]:
    """Read ``ExecStart=`` and its like. Source: config_parse_exec of systemd 252."""
    found: list[ExecCommand] = []
    at = 0
    try:
        while at < len(text):
            command, at = _command(text, at, context)
            found.append(command)
    except QuotingError as error:
        raise ValueError(f"{error} in {text!r}; close it, or write \\x22") from error
    return found


def _command(text: str, at: int, context: Context) -> tuple[ExecCommand, int]:
    first, at = next_word(text, at)
    prefixes, path = _prefixes(first or "")
    path = context.specifiers.expand(path)
    if not path or (not os.path.isabs(path) and "/" in path):
        raise ValueError(
            f"{path!r} is neither an absolute path nor a program's bare name; "
            "write the program's whole path"
        )
    argv = [] if "@" in prefixes else [path]
    while at < len(text):
        if text[at] == ";" and text[at + 1 : at + 2] in ("", *WHITESPACE):
            at += 1
            at += len(text[at:]) - len(text[at:].lstrip(WHITESPACE))
            break
        if text[at : at + 2] == "\\;" and text[at + 2 : at + 3] in ("", *WHITESPACE):
            argv.append(";")
            at += 2
            at += len(text[at:]) - len(text[at:].lstrip(WHITESPACE))
            continue
        word, at = next_word(text, at)
        if word is None:
            break
        argv.append(context.specifiers.expand(word))
    if not argv:
        raise ValueError(f"{text!r} names no argv[0] after '@'; write the name to run it under")
    return (
        ExecCommand(
            path,
            tuple(argv),
            context.place,
            ignore_failure="-" in prefixes,
            expand_environment=":" not in prefixes,
            privileged="+" in prefixes or "!" in prefixes,
        ),
        at,
    )


def _prefixes(word: str) -> tuple[str, str]:
    """Split off the special prefixes, each of which counts once (``!`` twice)."""
    seen = ""
    while word[:1] and word[0] in "-@:+!":
        if word[0] in seen and seen[-1:] + word[0] != "!!":
            break
        if word[0] in "+!" and ("+" in seen or seen.count("!") > 1):
            break
        seen += word[0]
        word = word[1:]
    return seen, word


#: Of the single values, those that are text: in the others a percent sign is one.
_EXPANDED = (str, _absolute, _slice)

_CONDITIONS = (
    *("PathExists", "PathExistsGlob", "PathIsDirectory", "PathIsSymbolicLink", "PathIsMountPoint"),
    *("PathIsReadWrite", "DirectoryNotEmpty", "FileNotEmpty", "FileIsExecutable", "User", "Group"),
    *("Host", "Architecture", "Environment", "KernelCommandLine"),
)


@dataclass
class UnitSettings:
    """Section ``[Unit]``."""

    description: str = one("Description", str, "")
    documentation: list[str] = many("Documentation SourcePath", _text)
    after: list[str] = many("After", _units, resets=False)
    before: list[str] = many("Before", _units, resets=False)
    wants: list[str] = many("Wants", _units, resets=False)
    requires: list[str] = many("Requires", _units, resets=False)
    requisite: list[str] = many("Requisite", _units, resets=False)
    binds_to: list[str] = many("BindsTo", _units, resets=False)
    part_of: list[str] = many("PartOf", _units, resets=False)
    conflicts: list[str] = many("Conflicts", _units, resets=False)
    on_failure: list[str] = many("OnFailure", _units, resets=False)
    on_success: list[str] = many("OnSuccess", _units, resets=False)
    default_dependencies: bool = one("DefaultDependencies", parse_boolean, True)
    start_limit_interval: float = one(
        "StartLimitIntervalSec StartLimitInterval", parse_seconds, 10.0
    )
    start_limit_burst: int = one("StartLimitBurst", parse_number, 5)
    conditions: list[Condition] = field(default_factory=list, metadata={"names": []})
    asserts: list[Condition] = field(default_factory=list, metadata={"names": []})


#: systemd's name of a resource limit: the kernel's, as :mod:`resource` spells it.
RESOURCE_LIMITS = {
    f"Limit{name}": f"RLIMIT_{kernel}"
    for name, kernel in {
        **{name: name for name in ("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NOFILE", "AS")},
        **{name: name for name in ("NPROC", "MEMLOCK", "SIGPENDING", "MSGQUEUE", "NICE")},
        **{name: name for name in ("RTPRIO", "RTTIME")},
    }.items()
}


@dataclass
class ServiceSettings:
    """Section ``[Service]``: what runs, as whom, when again, and how it is ended."""

    type: str | None = one(
        "Type",
        _choice("simple", "exec", "forking", "oneshot", "notify", "notify-reload", "idle", "dbus"),
        None,
    )
    exec_condition: list[ExecCommand] = many("ExecCondition", _commands)
    exec_start_pre: list[ExecCommand] = many("ExecStartPre", _commands)
    exec_start: list[ExecCommand] = many("ExecStart", _commands)
    exec_start_post: list[ExecCommand] = many("ExecStartPost", _commands)
    exec_reload: list[ExecCommand] = many("ExecReload", _commands)
    exec_stop: list[ExecCommand] = many("ExecStop", _commands)
    exec_stop_post: list[ExecCommand] = many("ExecStopPost", _commands)
    remain_after_exit: bool = one("RemainAfterExit", parse_boolean, False)
    guess_main_pid: bool = one("GuessMainPID", parse_boolean, True)
    pid_file: str | None = one("PIDFile", str, None)
    bus_name: str | None = one("BusName", str, None)
    notify_access: str | None = one("NotifyAccess", _choice("none", "main", "exec", "all"), None)
    restart: str = one(
        "Restart",
        _choice(
            *("no", "always", "on-success", "on-failure"),
            *("on-abnormal", "on-abort", "on-watchdog"),
        ),
        "no",
    )
    restart_sec: float = one("RestartSec", parse_seconds, 0.1)
    restart_steps: int = one("RestartSteps", parse_number, 0)
    restart_max_delay: float = one("RestartMaxDelaySec", parse_seconds, math.inf)
    success_exit_status: list[ExitStatuses] = many("SuccessExitStatus", _statuses)
    restart_prevent: list[ExitStatuses] = many("RestartPreventExitStatus", _statuses)
    restart_force: list[ExitStatuses] = many("RestartForceExitStatus", _statuses)
    timeout_start: float | None = one("TimeoutStartSec TimeoutSec", parse_timeout, None)
    timeout_stop: float = one("TimeoutStopSec TimeoutSec", parse_timeout, 90.0)
    timeout_abort: float | None = one("TimeoutAbortSec", parse_timeout, None)
    start_failure_mode: str = one(
        "TimeoutStartFailureMode", _choice("terminate", "abort", "kill"), "terminate"
    )
    stop_failure_mode: str = one(
        "TimeoutStopFailureMode", _choice("terminate", "abort", "kill"), "terminate"
    )
    runtime_max: float = one("RuntimeMaxSec", parse_timeout, math.inf)
    watchdog: float = one("WatchdogSec", parse_timeout, math.inf)
    kill_mode: str = one(
        "KillMode", _choice("control-group", "mixed", "process", "none"), "control-group"
    )
    kill_signal: int = one("KillSignal", parse_signal, int(signal.SIGTERM))
    restart_kill_signal: int | None = one("RestartKillSignal", parse_signal, None)
    final_kill_signal: int = one("FinalKillSignal", parse_signal, int(signal.SIGKILL))
    watchdog_signal: int = one("WatchdogSignal", parse_signal, int(signal.SIGABRT))
    send_sigkill: bool = one("SendSIGKILL", parse_boolean, True)
    send_sighup: bool = one("SendSIGHUP", parse_boolean, False)
    oom_policy: str = one("OOMPolicy", _choice("continue", "stop", "kill"), "stop")
    user: str | None = one("User", str, None)
    group: str | None = one("Group", str, None)
    supplementary_groups: list[str] = many("SupplementaryGroups", _words)
    working_directory: str | None = one("WorkingDirectory", _absolute, None)
    environment: list[str] = many("Environment", _variables)
    environment_files: list[str] = many("EnvironmentFile", _environment_files)
    pass_environment: list[str] = many("PassEnvironment", _words)
    unset_environment: list[str] = many("UnsetEnvironment", _words)
    search_path: list[str] = many("ExecSearchPath", _text)
    umask: int = one("UMask", parse_mode, 0o022)
    nice: int | None = one("Nice", lambda text: parse_number(text, -20, 19), None)
    oom_score_adjust: int | None = one(
        "OOMScoreAdjust", lambda text: parse_number(text, -1000, 1000), None
    )
    ignore_sigpipe: bool = one("IgnoreSIGPIPE", parse_boolean, True)
    standard_input: str = one("StandardInput", str, "null")
    standard_output: str = one("StandardOutput", str, "journal")
    standard_error: str = one("StandardError", str, "inherit")
    syslog_identifier: str | None = one("SyslogIdentifier", str, None)
    resource_limits: list[tuple[str, int, int]] = field(
        default_factory=list, metadata={"names": []}
    )
    runtime_directory: list[str] = many("RuntimeDirectory", _directory_names)
    state_directory: list[str] = many("StateDirectory", _directory_names)
    cache_directory: list[str] = many("CacheDirectory", _directory_names)
    logs_directory: list[str] = many("LogsDirectory", _directory_names)
    configuration_directory: list[str] = many("ConfigurationDirectory", _directory_names)
    runtime_directory_mode: int = one("RuntimeDirectoryMode", parse_mode, 0o755)
    state_directory_mode: int = one("StateDirectoryMode", parse_mode, 0o755)
    cache_directory_mode: int = one("CacheDirectoryMode", parse_mode, 0o755)
    logs_directory_mode: int = one("LogsDirectoryMode", parse_mode, 0o755)
    configuration_directory_mode: int = one("ConfigurationDirectoryMode", parse_mode, 0o755)
    runtime_directory_preserve: str = one(
        "RuntimeDirectoryPreserve", _choice("no", "yes", "restart"), "no"
    )

    @property
    def effective_type(self) -> str:
        """The type, if none is written the one that follows from the rest."""
        if self.type is not None:
            return self.type
        if self.bus_name is not None:
            return "dbus"
        return "simple" if self.exec_start else "oneshot"

    @property
    def start_seconds(self) -> float:
        """``TimeoutStartSec=``, with its default for the type."""
        if self.timeout_start is not None:
            return self.timeout_start
        return math.inf if self.effective_type == "oneshot" else 90.0

    @property
    def abort_seconds(self) -> float:
        """``TimeoutAbortSec=``, by default that of stopping."""
        return self.timeout_stop if self.timeout_abort is None else self.timeout_abort


@dataclass
class LimitSettings:
    """What ``[Service]`` and ``[Slice]`` say of memory and tasks. Units: bytes, tasks."""

    slice: str | None = one("Slice", _slice, None)
    memory_max: int = one("MemoryMax MemoryLimit", parse_memory, NO_LIMIT)
    memory_high: int = one("MemoryHigh", parse_memory, NO_LIMIT)
    tasks_max: int = one("TasksMax", parse_tasks, NO_LIMIT)
    kmem_max: int = one("X-KmemMax", _kmem, NO_LIMIT)
    kmem_kinds: list[str] = many("X-KmemKinds", _kinds)
    kmem_inject: list[str] = many("X-KmemInject", _injections)


@dataclass
class InstallSettings:
    """Section ``[Install]``: the units given count as enabled."""

    alias: list[str] = many("Alias", _units)
    wanted_by: list[str] = many("WantedBy", _units)
    required_by: list[str] = many("RequiredBy", _units)
    also: list[str] = many("Also", _units)
    default_instance: str | None = one("DefaultInstance", str, None)


def condition_keys() -> dict[str, list[Key]]:
    """List the keys of conditions and asserts that are looked at."""
    found = {}
    for kind in _CONDITIONS:
        found[f"Condition{kind}"] = [Key("conditions", _conditions(kind), many=True, resets=True)]
        found[f"Assert{kind}"] = [Key("asserts", _conditions(kind), many=True, resets=True)]
    return found


def resource_limit_keys() -> dict[str, list[Key]]:
    """List the keys of resource limits; the last one of a name counts."""
    return {
        name: [Key("resource_limits", _resource(kernel), many=True, resets=False)]
        for name, kernel in RESOURCE_LIMITS.items()
    }
