"""Put the OCI wrapper ``kmem-runtime`` into an engine's configuration, and take it out again.

Docker's is a JSON file that may hold much else, of which a backup is kept; podman reads all files of a
folder, so that ours is one of its own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from kmem_harness.serve.places import runtime_of

__all__ = ["ENGINES", "NAME", "Installation", "install", "uninstall"]

#: What the wrapper is called in engines' configurations.
NAME = "kmem-harness"
ENGINES = ("docker", "podman")
_BUILT = Path(__file__).parents[1] / "interposer" / "bin" / "kmem-runtime"
_SEARCHED = ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin")
_CONFIGS = {
    "docker": Path("/etc/docker/daemon.json"),
    "podman": Path("/etc/containers/containers.conf.d/50-kmem-harness.conf"),
}
_USUAL = {"docker": ("runc", "crun"), "podman": ("crun", "runc")}
_RESTART = {
    "docker": "systemctl reload docker (or kill -HUP dockerd); then docker run --runtime kmem-harness",
    "podman": "nothing to restart; then podman --runtime kmem-harness run",
}


class Installation(NamedTuple):
    """Where things go. *into* gets the program and its settings, *config* is the engine's file."""

    engine: str
    into: Path
    config: Path
    runtime: str | None
    socket: Path
    as_default: bool

    @classmethod
    def of(
        cls,
        engine: str,
        into: Path,
        config: Path | None,
        runtime: str | None,
        socket: Path,
        *,
        as_default: bool = False,
    ) -> Installation:
        """Fill in what was left to us."""
        return cls(engine, into, config or _CONFIGS[engine], runtime, socket, as_default)

    @property
    def program(self) -> Path:
        """The wrapper."""
        return self.into / f"kmem-runtime-{self.engine}"


def install(where: Installation) -> str:
    """Install the wrapper; say what is left to do. Raises: ConfigurationError, UnsupportedHostError."""
    real = _find_runtime(where)
    config = _docker_config(where.config) if where.engine == "docker" else {}
    where.into.mkdir(parents=True, exist_ok=True)
    shutil.copy(_BUILT, where.program)
    where.program.chmod(0o755)
    settings = f"runtime={real}\nsocket={runtime_of(where.socket)}\n"
    Path(f"{where.program}.conf").write_text(settings, encoding="utf-8")
    where.config.parent.mkdir(parents=True, exist_ok=True)
    if where.engine == "docker":
        if where.config.exists():
            shutil.copy2(where.config, _backup_of(where.config))
        config.setdefault("runtimes", {})[NAME] = {"path": str(where.program)}
        if where.as_default:
            config["default-runtime"] = NAME
        _write_json(where.config, config)
    else:
        default = f'[engine]\nruntime = "{NAME}"\n' if where.as_default else ""
        text = f'{default}[engine.runtimes]\n{NAME} = ["{where.program}"]\n'
        where.config.write_text(text, encoding="utf-8")
    return f"{where.config}: runtime {NAME} is {where.program}, before {real}; {_RESTART[where.engine]}"


def uninstall(where: Installation) -> str:
    """Take the wrapper out; say what is left to do. Raises: ConfigurationError."""
    if where.engine == "docker":
        config = _docker_config(where.config)
        runtimes = config.get("runtimes") or {}
        runtimes.pop(NAME, None)
        if not runtimes:
            config.pop("runtimes", None)
        if config.get("default-runtime") == NAME:
            del config["default-runtime"]
        if config:
            _write_json(where.config, config)
        else:
            where.config.unlink(missing_ok=True)
        _backup_of(where.config).unlink(missing_ok=True)
    else:
        where.config.unlink(missing_ok=True)
    for file in (where.program, Path(f"{where.program}.conf")):
        file.unlink(missing_ok=True)
    return (
        f"{where.config}: runtime {NAME} is gone; containers that were made with it can be removed, and "
        "not started any more"
    )


def _find_runtime(where: Installation) -> str:
    candidates = [where.runtime] if where.runtime else list(_USUAL[where.engine])
    for name in candidates:
        found = shutil.which(name) or shutil.which(name, path=":".join(_SEARCHED))
        if found is not None and Path(found).resolve() != where.program.resolve():
            return str(Path(found).resolve())
    raise UnsupportedHostError(
        f"there is no {' or '.join(candidates)} here that could be run",
        missing="an OCI runtime",
        remedy="install runc or crun, or name one with --runtime",
    )


def _docker_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{str(file)!r} cannot be read as JSON ({error}); mend it, or name another with --config"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("runtimes", {}), dict):
        raise ConfigurationError(f"{str(file)!r} is no configuration of dockerd's; see its manual")
    return config


def _backup_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.before-kmem-harness")


def _write_json(file: Path, value: dict[str, Any]) -> None:
    made = file.with_name(f"{file.name}.new")
    made.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    made.replace(file)
