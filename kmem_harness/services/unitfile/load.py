"""Find units by name or file, with their drop-ins, templates and aliases. Reads files; starts nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.services.unitfile.names import (
    UNIT_TYPES,
    UnitName,
    completed,
    parse_name,
    slice_path,
)
from kmem_harness.services.unitfile.syntax import Assignment, Place, read_unit_file
from kmem_harness.services.unitfile.unit import Unit, build_unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kmem_harness.services.unitfile.specifiers import Directories

__all__ = ["SYSTEM_FOLDERS", "Library", "Request", "UnitNotFoundError", "read_request"]

#: Where a unit named on the command line is looked for when no given folder has it.
SYSTEM_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
)
_STARTED = ("service", "target", "slice")
_PROPERTY = "--property"


class UnitNotFoundError(ConfigurationError):
    """There is no file for a unit."""


@dataclass(frozen=True)
class Request:
    """What a command line asks for: units to start, and the folders that units come from."""

    names: tuple[str, ...]
    folders: tuple[str, ...]


def read_request(arguments: Sequence[str]) -> Request:
    """Tell folders, files and names apart.

    A folder stands for every service, slice and target in it that is no template.
    Raises: ConfigurationError.
    """
    names: list[str] = []
    folders: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            folders.append(str(path.resolve()))
            names += sorted(
                name
                for name in os.listdir(path)
                if name.rpartition(".")[2] in _STARTED
                and not (path / name).is_dir()
                and not parse_name(name).is_template
            )
        elif "/" in argument or path.is_file():
            template = parse_name(path.name).template
            if not path.exists() and not (template and path.with_name(template).exists()):
                raise UnitNotFoundError(
                    f"unit file {argument!r} does not exist; check the spelling"
                )
            folders.append(str(path.resolve().parent if not path.is_symlink() else path.parent))
            names.append(path.name)
        else:
            names.append(parse_name(completed(argument)).text)
    for name in names:
        if parse_name(name).is_template:
            message = (
                f"{name!r} is a template; give an instance, such as {name.replace('@', '@1')!r}"
            )
            raise ConfigurationError(message)
    return Request(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(folders)))


@dataclass
class Library:
    """All units that can be had, each loaded once.

    *properties* are assignments on top of all files: ``("web.service", "X-KmemMax", "8M")``.
    """

    folders: Sequence[str]
    directories: Directories
    properties: Sequence[tuple[str, str, str]] = ()
    #: Units whose files may come from the system's own folders: those asked for by name.
    named: frozenset[str] = frozenset()
    _units: dict[str, Unit] = field(default_factory=dict, init=False)
    _installed: dict[str, list[tuple[str, bool]]] | None = field(default=None, init=False)

    def load(self, name: str) -> Unit:
        """Load the unit *name*, or the one it is an alias of.

        Raises: UnitNotFoundError; ConfigurationError if a file cannot be used.
        """
        if name in self._units:
            return self._units[name]
        parsed = parse_name(name)
        path = self._find(parsed)
        if path is None and parsed.type == "slice":
            slice_path(name)  # a name that cannot be a slice has no implied one
        elif path is None:
            where = ", ".join(self._folders_for(parsed)) or "no folder was given"
            message = f"unit {name!r} was not found (looked in {where}); name its file or folder"
            raise UnitNotFoundError(message)
        else:
            real = self._alias(parsed, path)
            if real is not None:
                unit = self._units[name] = self.load(real)
                return unit
            if _is_masked(path):
                message = f"unit {name!r} is masked: {path} is empty; name another, or unmask it"
                raise ConfigurationError(message)
        if parsed.type == "slice":
            slice_path(name)
        drop_ins = self._drop_ins(parsed)
        paths = [*([path] if path else []), *drop_ins]
        complaints: list[str] = []
        assignments = [
            one
            for each in paths
            for one in read_unit_file(
                each, lambda place, wrong: complaints.append(f"{place}: {wrong}; left out")
            )
        ]
        assignments += self._given(parsed)
        unit = build_unit(parsed, paths, assignments, self.directories)
        unit.complaints += complaints
        unit.unit.wants += self._linked(parsed, "wants")
        unit.unit.requires += self._linked(parsed, "requires")
        self._units[name] = unit
        return unit

    def load_if_there(self, name: str) -> Unit | None:
        """Load *name*, or give ``None`` if there is no file for it."""
        try:
            return self.load(name)
        except UnitNotFoundError:
            return None

    def installed_into(self, name: str) -> list[tuple[str, bool]]:
        """List the units of the given folders whose [Install] names *name*: (unit, required)."""
        if self._installed is None:
            self._installed = {}
            for folder in self.folders:
                for path in sorted(Path(folder).iterdir()):
                    if path.suffix[1:] in _STARTED and path.is_file() and "@." not in path.name:
                        self._read_install(path)
        return self._installed.get(name, [])

    def _read_install(self, path: Path) -> None:
        for one in read_unit_file(path):
            if one.section == "Install" and one.key in ("WantedBy", "RequiredBy"):
                for target in one.value.split():
                    into = self._installed.setdefault(target, [])  # type: ignore[union-attr]
                    into.append((path.name, one.key == "RequiredBy"))

    def _folders_for(self, name: UnitName) -> list[str]:
        system = SYSTEM_FOLDERS if name.text in self.named else ()
        return [*self.folders, *(one for one in system if Path(one).is_dir())]

    def _find(self, name: UnitName) -> str | None:
        for candidate in filter(None, (name.text, name.template)):
            for folder in self._folders_for(name):
                path = os.path.join(folder, candidate)
                if os.path.lexists(path) and not Path(path).is_dir():
                    return path
        return None

    def _alias(self, name: UnitName, path: str) -> str | None:
        """Follow a link to another unit's file: its name is the real one."""
        if not Path(path).is_symlink() or _is_masked(path):
            return None
        target = Path(path).resolve().name
        if target in (name.text, name.template) or target.rpartition(".")[2] not in UNIT_TYPES:
            return None
        real = parse_name(target)
        if real.is_template and name.instance:
            real = parse_name(f"{real.prefix}@{name.instance}.{real.type}")
        return None if real.text == name.text else real.text

    def _drop_ins(self, name: UnitName) -> list[str]:
        """List the drop-ins, in the order they apply; of equal names the most specific counts."""
        found: dict[str, str] = {}
        for folder_name in name.drop_in_folders():
            for folder in self._folders_for(name):
                for path in sorted(Path(folder, folder_name).glob("*.conf")):
                    found.setdefault(path.name, str(path))
        return [found[each] for each in sorted(found) if not _is_masked(found[each])]

    def _linked(self, name: UnitName, kind: str) -> list[str]:
        """List what ``name.wants/`` holds."""
        return [
            parse_name(path.name).text
            for folder in self.folders
            for path in sorted(Path(folder, f"{name}.{kind}").glob("*"))
        ]

    def _given(self, name: UnitName) -> Iterable[Assignment]:
        for unit, key, value in self.properties:
            if unit == name.text:
                section = {"slice": "Slice", "service": "Service"}.get(name.type, "Unit")
                if key.startswith("StartLimit"):
                    section = "Unit"
                yield Assignment(section, key, value, Place(f"{_PROPERTY} {unit}", 0))


def _is_masked(path: str) -> bool:
    return os.path.realpath(path) == os.devnull or (
        Path(path).is_file() and Path(path).stat().st_size == 0
    )
