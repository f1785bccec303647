"""Build a unit from its assignments, and account for every key: acted on, told, or not emulated."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.unitfile.readers import Context
from kmem_harness.services.unitfile.settings import (
    InstallSettings,
    Key,
    LimitSettings,
    ServiceSettings,
    UnitSettings,
    condition_keys,
    keys_of,
    resource_limit_keys,
)
from kmem_harness.services.unitfile.specifiers import Directories, Specifiers, user_named
from kmem_harness.services.unitfile.syntax import Assignment, Place, UnitFileError

if TYPE_CHECKING:
    from kmem_harness.services.unitfile.names import UnitName

__all__ = ["Handling", "Noted", "Unit", "apply_property", "build_unit"]


class Handling(Enum):
    """What becomes of one assignment."""

    ENFORCED = "enforced"
    #: Says something to people, or to ``systemctl``; there is nothing to act on.
    TOLD = "told"
    NOT_EMULATED = "not emulated"
    UNKNOWN = "unknown to systemd 252 too"
    #: ``X-``: for other programs, as systemd has it.
    IGNORED = "ignored, as systemd does"
    #: Not what its key takes: systemd warns, and goes on without it.
    INVALID = "not valid, and left out as systemd does"


_TOLD = {
    *("Description", "Documentation", "SourcePath"),
    # What journald would do with lines that we show ourselves.
    *("SyslogFacility", "SyslogLevel", "SyslogLevelPrefix", "LogLevelMax"),
    # Accounting is always on here.
    *("MemoryAccounting", "TasksAccounting", "CPUAccounting", "IOAccounting", "IPAccounting"),
    *("BlockIOAccounting", "CollectMode"),
}
_LISTED = ("Unit", "Service", "Slice", "Install")


@dataclass(frozen=True)
class Noted:
    """One assignment and what became of it; ``why`` where that needs saying."""

    assignment: Assignment
    handling: Handling
    why: str = ""


@dataclass
class Unit:
    """A unit as loaded: files and drop-ins merged, values read."""

    name: UnitName
    #: The file it came from, and the drop-ins on top of it; empty for one that its name implies.
    files: list[str]
    unit: UnitSettings = field(default_factory=UnitSettings)
    service: ServiceSettings | None = None
    limits: LimitSettings = field(default_factory=LimitSettings)
    install: InstallSettings = field(default_factory=InstallSettings)
    noted: list[Noted] = field(default_factory=list)
    specifiers: Specifiers | None = field(default=None, repr=False)
    #: Lines that say nothing, each with its place.
    complaints: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The unit's name."""
        return self.name.text

    @property
    def slice(self) -> str:
        """The slice it is in."""
        if self.name.type == "slice":
            above = self.name.prefix.rpartition("-")[0]
            return f"{above or '-'}.slice"
        if self.limits.slice is None and self.name.instance is not None:
            # systemd gives the instances of a template a slice of their own.
            return f"system-{self.name.prefix.replace('-', chr(92) + 'x2d')}.slice"
        return self.limits.slice or "system.slice"

    @property
    def has_slice(self) -> bool:
        """Whether it is in a slice of its own naming: all are below the root, which is always there."""
        return self.name.type in ("service", "slice") and self.slice != "-.slice"

    def not_emulated(self) -> list[Noted]:
        """List what is not acted on and should be told."""
        silent = (Handling.ENFORCED, Handling.TOLD)
        return [one for one in self.noted if one.handling not in silent]


@cache
def _systemd_keys() -> dict[str, frozenset[str]]:
    lines = files(__package__).joinpath("systemd_keys.txt").read_text(encoding="ascii").splitlines()
    found = {}
    for line in lines:
        section, _, keys = line.partition(":")
        if not line.startswith("#"):
            found[section] = frozenset(keys.split())
    return found


@cache
def _table(unit_type: str) -> dict[tuple[str, str], list[tuple[str, Key]]]:
    """List by section and key which field of which part of a unit is set."""
    parts: list[tuple[str, str, dict[str, list[Key]]]] = [
        ("Unit", "unit", {**keys_of(UnitSettings), **condition_keys()}),
        ("Install", "install", keys_of(InstallSettings)),
    ]
    if unit_type == "service":
        start_limit = {
            name: keys
            for name, keys in keys_of(UnitSettings).items()
            if name in ("StartLimitInterval", "StartLimitBurst")  # where they once stood
        }
        parts += [
            ("Service", "service", {**keys_of(ServiceSettings), **resource_limit_keys()}),
            ("Service", "limits", keys_of(LimitSettings)),
            ("Service", "unit", start_limit),
        ]
    elif unit_type == "slice":
        parts.append(("Slice", "limits", keys_of(LimitSettings)))
    table: dict[tuple[str, str], list[tuple[str, Key]]] = {}
    for section, part, keys in parts:
        for name, targets in keys.items():
            table.setdefault((section, name), []).extend((part, key) for key in targets)
    return table


def build_unit(
    name: UnitName, paths: list[str], assignments: list[Assignment], directories: Directories
) -> Unit:
    """Merge *assignments*, in the order of their files, into one unit.

    Raises: UnitFileError for a value without which systemd would not load the unit either, for one
    of ours, and for one from a command line; other values that cannot be read are left out and noted.
    """
    unit = Unit(name, paths)
    if name.type == "service":
        unit.service = ServiceSettings()
    table = _table(name.type)
    fragment = paths[0] if paths else ""
    unit.specifiers = Specifiers(name, fragment, directories)
    for assignment in assignments:
        targets = table.get((assignment.section, assignment.key), [])
        try:
            left_out = [
                one
                for part, key in targets
                for one in _assign(getattr(unit, part), key, assignment, unit.specifiers)
            ]
        except UnitFileError as error:
            if _is_fatal(assignment):
                raise
            why = str(error).removeprefix(f"{assignment.place}: ")
            unit.noted.append(Noted(assignment, Handling.INVALID, why))
            continue
        if left_out and _is_fatal(assignment):
            raise UnitFileError(assignment.place, f"{assignment.key}={left_out[0]}")
        if left_out:
            why = f"{assignment.key}={'; '.join(left_out)}"
            unit.noted.append(Noted(assignment, Handling.INVALID, why))
            continue
        unit.noted.append(_note(unit, assignment, acted_on=bool(targets)))
    _check(unit)
    return unit


#: What a running unit can be given anew.
_PROPERTIES = ("X-KmemMax", "MemoryMax", "MemoryHigh", "TasksMax")


def apply_property(unit: Unit, text: str) -> str:
    """Set a limit of a loaded unit, as in ``X-KmemMax=8M``; give the key.

    Raises: ConfigurationError for a key that cannot be set, UnitFileError for its value.
    """
    key, equals, value = text.partition("=")
    section = {"service": "Service", "slice": "Slice"}.get(unit.name.type, "")
    targets = _table(unit.name.type).get((section, key), [])
    if not equals or key not in _PROPERTIES or not targets or unit.specifiers is None:
        message = (
            f"{text!r} cannot be set on {unit.text}; a service or slice takes "
            f"{', '.join(f'{name}=' for name in _PROPERTIES)}"
        )
        raise ConfigurationError(message)
    assignment = Assignment(section, key, value, Place(f"{unit.text}: set-property", 0))
    for part, target in targets:
        _assign(getattr(unit, part), target, assignment, unit.specifiers)
    return key


#: Keys without whose value systemd does not load the unit. Source: config_parse_exec and its like.
_FATAL = ("Exec", "User", "Group", "WorkingDirectory", "X-Kmem")
_MAY_FAIL = re.compile(r"[@:+!]*-")


def _is_fatal(assignment: Assignment) -> bool:
    """Say whether a value that cannot be read has to be mended before anything starts."""
    if not assignment.place.line:  # somebody has just typed it
        return True
    key = assignment.key
    may_fail = key not in ("User", "Group") and _MAY_FAIL.match(assignment.value)
    return key.startswith(_FATAL) and key != "ExecSearchPath" and not may_fail


def _assign(part: Any, key: Key, assignment: Assignment, specifiers: Specifiers) -> list[str]:
    """Set a field; give what of a list was left out, and why. Raises: UnitFileError."""
    if not assignment.value:
        if key.many and not key.resets:
            return []
        setattr(part, key.field, getattr(type(part)(), key.field))
        return []
    context = Context(specifiers, assignment.place)
    try:
        value = key.parse(assignment.value, context)
    except (ValueError, ConfigurationError) as error:
        raise UnitFileError(assignment.place, f"{assignment.key}={error}") from error
    if key.many:
        getattr(part, key.field).extend(value)
    else:
        setattr(part, key.field, value)
    return context.left_out


def _note(unit: Unit, assignment: Assignment, *, acted_on: bool) -> Noted:
    section, key = assignment.section, assignment.key
    if key in _TOLD or section == "Install":
        return Noted(assignment, Handling.TOLD)
    if acted_on:
        why = _why_not_whole(unit, assignment)
        return Noted(assignment, Handling.NOT_EMULATED if why else Handling.ENFORCED, why)
    if key.startswith("X-Kmem") and section in ("Service", "Slice"):
        raise UnitFileError(
            assignment.place,
            f"unknown key {key}=; known are X-KmemMax=, X-KmemInject= and X-KmemKinds=",
        )
    if section.startswith("X-") or key.startswith("X-"):
        return Noted(assignment, Handling.IGNORED)
    if section in _LISTED and key not in _systemd_keys()[section]:
        return Noted(assignment, Handling.UNKNOWN)
    return Noted(assignment, Handling.NOT_EMULATED)


def _why_not_whole(unit: Unit, assignment: Assignment) -> str:
    """Say what is missing of a key whose other values are acted on, or nothing."""
    key, value = assignment.key, assignment.value
    if (key, value) in _PARTIAL:
        return _PARTIAL[key, value]
    if unit.text == "-.slice" and assignment.section == "Slice":
        return "the root has no limits"
    if key == "TasksMax" and unit.name.type == "slice" and os.geteuid() != 0:
        return "a bound over several boxes needs root and a pids cgroup"
    if key in ("User", "Group", "SupplementaryGroups") and os.geteuid() != 0 and value:
        own = _is_own_user(value) if key == "User" else False
        return "" if own else "only root can change user; it runs as you"
    if key in ("StandardInput", "StandardOutput", "StandardError") and not value.startswith(
        ("null", "journal", "inherit", "file:", "append:", "truncate:")
    ):
        return "its lines are shown with all others" if key != "StandardInput" else "reads nothing"
    return ""


_PARTIAL = {
    ("Type", "dbus"): "there is no bus: started once its process runs",
    ("Type", "idle"): "does not wait for other jobs, as Type=simple",
    ("KillMode", "process"): "what it leaves behind is ended with its box",
    ("KillMode", "none"): "what it leaves behind is ended with its box",
}


def _is_own_user(name: str) -> bool:
    try:
        return user_named(name).pw_uid == os.geteuid()
    except KeyError:
        return False


def _check(unit: Unit) -> None:
    """Refuse what systemd would refuse to load. Source: service_verify of systemd 252."""
    service = unit.service
    if service is None:
        return
    place = Place(unit.files[0] if unit.files else unit.text, 0)
    if not (service.exec_start or service.exec_stop):
        raise UnitFileError(place, "no ExecStart= and no ExecStop=; write what shall run")
    kind = service.effective_type
    if not service.exec_start and not service.remain_after_exit:
        raise UnitFileError(place, "no ExecStart=, which only RemainAfterExit=yes allows; add it")
    if kind != "oneshot" and len(service.exec_start) != 1:
        raise UnitFileError(
            service.exec_start[1].place if service.exec_start else place,
            f"Type={kind} has exactly one ExecStart=, and this makes {len(service.exec_start)}; "
            "write 'ExecStart=' alone first to replace it, or Type=oneshot",
        )
    if kind == "oneshot" and service.restart in ("always", "on-success"):
        raise UnitFileError(
            place, f"Restart={service.restart} never ends with Type=oneshot; use on-failure"
        )
    if kind == "dbus" and service.bus_name is None:
        raise UnitFileError(place, "Type=dbus needs BusName=")
