"""What unit files can say that is acted on: one dataclass a section, its fields the table of keys.

The defaults are systemd's own. Knows how values are read; opens no files and starts nothing.
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from kmem_harness.services.unitfile import readers as read
from kmem_harness.services.unitfile.values import (
    NO_LIMIT,
    ExitStatuses,
    parse_boolean,
    parse_memory,
    parse_mode,
    parse_number,
    parse_seconds,
    parse_signal,
    parse_tasks,
    parse_timeout,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.services.unitfile.readers import Condition, Context, ExecCommand

__all__ = [
    "RESOURCE_LIMITS",
    "InstallSettings",
    "Key",
    "LimitSettings",
    "ServiceSettings",
    "UnitSettings",
    "condition_keys",
    "keys_of",
    "resource_limit_keys",
]


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


#: Of the single values, those that are text: in the others a percent sign is one.
_EXPANDED = (str, read.absolute_path, read.account_name, read.slice_name)

_CONDITIONS = (
    *("PathExists", "PathExistsGlob", "PathIsDirectory", "PathIsSymbolicLink", "PathIsMountPoint"),
    *("PathIsReadWrite", "DirectoryNotEmpty", "FileNotEmpty", "FileIsExecutable", "User", "Group"),
    *("Host", "Architecture", "Environment", "KernelCommandLine"),
)


@dataclass
class UnitSettings:
    """Section ``[Unit]``."""

    description: str = one("Description", str, "")
    documentation: list[str] = many("Documentation SourcePath", read.text_of)
    after: list[str] = many("After", read.unit_names, resets=False)
    before: list[str] = many("Before", read.unit_names, resets=False)
    wants: list[str] = many("Wants", read.unit_names, resets=False)
    requires: list[str] = many("Requires RequiresOverridable", read.unit_names, resets=False)
    requisite: list[str] = many("Requisite RequisiteOverridable", read.unit_names, resets=False)
    binds_to: list[str] = many("BindsTo BindTo", read.unit_names, resets=False)
    part_of: list[str] = many("PartOf", read.unit_names, resets=False)
    upholds: list[str] = many("Upholds", read.unit_names, resets=False)
    conflicts: list[str] = many("Conflicts", read.unit_names, resets=False)
    propagates_stop_to: list[str] = many("PropagatesStopTo", read.unit_names, resets=False)
    stop_propagated_from: list[str] = many("StopPropagatedFrom", read.unit_names, resets=False)
    propagates_reload_to: list[str] = many(
        "PropagatesReloadTo PropagateReloadTo", read.unit_names, resets=False
    )
    reload_propagated_from: list[str] = many(
        "ReloadPropagatedFrom PropagateReloadFrom", read.unit_names, resets=False
    )
    on_failure: list[str] = many("OnFailure", read.unit_names, resets=False)
    on_success: list[str] = many("OnSuccess", read.unit_names, resets=False)
    on_failure_job_mode: str = one(
        "OnFailureJobMode", read.choice("replace", "fail", "isolate"), "replace"
    )
    on_success_job_mode: str = one(
        "OnSuccessJobMode", read.choice("replace", "fail", "isolate"), "fail"
    )
    stop_when_unneeded: bool = one("StopWhenUnneeded", parse_boolean, False)
    refuse_manual_start: bool = one("RefuseManualStart", parse_boolean, False)
    refuse_manual_stop: bool = one("RefuseManualStop", parse_boolean, False)
    allow_isolate: bool = one("AllowIsolate", parse_boolean, False)
    ignore_on_isolate: bool = one("IgnoreOnIsolate", parse_boolean, False)
    job_timeout: float = one("JobTimeoutSec", parse_timeout, math.inf)
    job_running_timeout: float = one("JobRunningTimeoutSec", parse_timeout, math.inf)
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
        read.choice(
            "simple", "exec", "forking", "oneshot", "notify", "notify-reload", "idle", "dbus"
        ),
        None,
    )
    exec_condition: list[ExecCommand] = many("ExecCondition", read.commands)
    exec_start_pre: list[ExecCommand] = many("ExecStartPre", read.commands)
    exec_start: list[ExecCommand] = many("ExecStart", read.commands)
    exec_start_post: list[ExecCommand] = many("ExecStartPost", read.commands)
    exec_reload: list[ExecCommand] = many("ExecReload", read.commands)
    exec_stop: list[ExecCommand] = many("ExecStop", read.commands)
    exec_stop_post: list[ExecCommand] = many("ExecStopPost", read.commands)
    remain_after_exit: bool = one("RemainAfterExit", parse_boolean, False)
    guess_main_pid: bool = one("GuessMainPID", parse_boolean, True)
    pid_file: str | None = one("PIDFile", str, None)
    bus_name: str | None = one("BusName", str, None)
    notify_access: str | None = one(
        "NotifyAccess", read.choice("none", "main", "exec", "all"), None
    )
    restart: str = one(
        "Restart",
        read.choice(
            *("no", "always", "on-success", "on-failure"),
            *("on-abnormal", "on-abort", "on-watchdog"),
        ),
        "no",
    )
    restart_sec: float = one("RestartSec", parse_seconds, 0.1)
    restart_steps: int = one("RestartSteps", parse_number, 0)
    restart_max_delay: float = one("RestartMaxDelaySec", parse_seconds, math.inf)
    success_exit_status: list[ExitStatuses] = many("SuccessExitStatus", read.statuses)
    restart_prevent: list[ExitStatuses] = many("RestartPreventExitStatus", read.statuses)
    restart_force: list[ExitStatuses] = many("RestartForceExitStatus", read.statuses)
    timeout_start: float | None = one("TimeoutStartSec TimeoutSec", parse_timeout, None)
    timeout_stop: float = one("TimeoutStopSec TimeoutSec", parse_timeout, 90.0)
    timeout_abort: float | None = one("TimeoutAbortSec", parse_timeout, None)
    start_failure_mode: str = one(
        "TimeoutStartFailureMode", read.choice("terminate", "abort", "kill"), "terminate"
    )
    stop_failure_mode: str = one(
        "TimeoutStopFailureMode", read.choice("terminate", "abort", "kill"), "terminate"
    )
    runtime_max: float = one("RuntimeMaxSec", parse_timeout, math.inf)
    watchdog: float = one("WatchdogSec", parse_timeout, math.inf)
    kill_mode: str = one(
        "KillMode", read.choice("control-group", "mixed", "process", "none"), "control-group"
    )
    kill_signal: int = one("KillSignal", parse_signal, int(signal.SIGTERM))
    restart_kill_signal: int | None = one("RestartKillSignal", parse_signal, None)
    final_kill_signal: int = one("FinalKillSignal", parse_signal, int(signal.SIGKILL))
    watchdog_signal: int = one("WatchdogSignal", parse_signal, int(signal.SIGABRT))
    send_sigkill: bool = one("SendSIGKILL", parse_boolean, True)
    send_sighup: bool = one("SendSIGHUP", parse_boolean, False)
    oom_policy: str = one("OOMPolicy", read.choice("continue", "stop", "kill"), "stop")
    user: str | None = one("User", read.account_name, None)
    group: str | None = one("Group", read.account_name, None)
    supplementary_groups: list[str] = many("SupplementaryGroups", read.words_of)
    working_directory: str | None = one("WorkingDirectory", read.absolute_path, None)
    environment: list[str] = many("Environment", read.variables)
    environment_files: list[str] = many("EnvironmentFile", read.environment_files)
    pass_environment: list[str] = many("PassEnvironment", read.words_of)
    unset_environment: list[str] = many("UnsetEnvironment", read.words_of)
    search_path: list[str] = many("ExecSearchPath", read.text_of)
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
    runtime_directory: list[str] = many("RuntimeDirectory", read.directory_names)
    state_directory: list[str] = many("StateDirectory", read.directory_names)
    cache_directory: list[str] = many("CacheDirectory", read.directory_names)
    logs_directory: list[str] = many("LogsDirectory", read.directory_names)
    configuration_directory: list[str] = many("ConfigurationDirectory", read.directory_names)
    runtime_directory_mode: int = one("RuntimeDirectoryMode", parse_mode, 0o755)
    state_directory_mode: int = one("StateDirectoryMode", parse_mode, 0o755)
    cache_directory_mode: int = one("CacheDirectoryMode", parse_mode, 0o755)
    logs_directory_mode: int = one("LogsDirectoryMode", parse_mode, 0o755)
    configuration_directory_mode: int = one("ConfigurationDirectoryMode", parse_mode, 0o755)
    runtime_directory_preserve: str = one(
        "RuntimeDirectoryPreserve", read.choice("no", "yes", "restart"), "no"
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

    slice: str | None = one("Slice", read.slice_name, None)
    memory_max: int = one("MemoryMax MemoryLimit", parse_memory, NO_LIMIT)
    memory_high: int = one("MemoryHigh", parse_memory, NO_LIMIT)
    tasks_max: int = one("TasksMax", parse_tasks, NO_LIMIT)
    kmem_max: int = one("X-KmemMax", read.kmem_size, NO_LIMIT)
    kmem_kinds: list[str] = many("X-KmemKinds", read.kinds)
    kmem_inject: list[str] = many("X-KmemInject", read.injections)


@dataclass
class InstallSettings:
    """Section ``[Install]``: the units given count as enabled."""

    alias: list[str] = many("Alias", read.unit_names)
    wanted_by: list[str] = many("WantedBy", read.unit_names)
    required_by: list[str] = many("RequiredBy", read.unit_names)
    also: list[str] = many("Also", read.unit_names)
    default_instance: str | None = one("DefaultInstance", str, None)


def condition_keys() -> dict[str, list[Key]]:
    """List the keys of conditions and asserts that are looked at."""
    found = {}
    for kind in _CONDITIONS:
        found[f"Condition{kind}"] = [
            Key("conditions", read.conditions(kind), many=True, resets=True)
        ]
        found[f"Assert{kind}"] = [Key("asserts", read.conditions(kind), many=True, resets=True)]
    return found


def resource_limit_keys() -> dict[str, list[Key]]:
    """List the keys of resource limits; the last one of a name counts."""
    return {
        name: [Key("resource_limits", read.resource_limit(kernel), many=True, resets=False)]
        for name, kernel in RESOURCE_LIMITS.items()
    }
