"""The default seccomp profile of each engine, by its version. Pure; the files are in ``seccomp/``.

Docker's is built into it and cannot be asked for, so it is carried here; podman's is a file on its
host, and is carried for hosts that lack it. An engine of a version that is not known here has none:
one of another version could allow what this engine denies.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any, NamedTuple

from kmem_harness.core.errors import ConfigurationError

__all__ = ["CARRIED", "Carried", "default_profile", "version_number"]


class Carried(NamedTuple):
    """A profile: of which *engine*, *since* which version on and *before* which, and its file."""

    engine: str
    since: tuple[int, ...]
    before: tuple[int, ...]
    file: str


CARRIED = (
    Carried("docker", (20, 10), (23,), "docker-20.10.json"),
    Carried("docker", (26, 1), (28, 5), "docker-26.1.json"),
    Carried("docker", (28, 5), (29,), "docker-28.5.json"),
    Carried("podman", (4, 3), (4, 4), "containers-0.50.json"),
    Carried("podman", (5, 4), (5, 5), "containers-0.62.json"),
    Carried("podman", (5, 8), (5, 9), "containers-0.67.json"),
)


def default_profile(engine: str, version: str) -> dict[str, Any]:
    """Give the profile that *engine* ("docker", "podman") of *version* gives its containers.

    Raises: ConfigurationError where that is not known.
    """
    number = version_number(version)
    for one in CARRIED:
        if one.engine == engine and number and one.since <= number < one.before:
            file = files("kmem_harness.runtimes") / "seccomp" / one.file
            profile: dict[str, Any] = json.loads(file.read_text("utf-8"))
            return profile
    known = ", ".join(
        f"{one.since[0]}.{(*one.since, 0)[1]} to before {'.'.join(map(str, one.before))}"
        for one in CARRIED
        if one.engine == engine
    )
    raise ConfigurationError(
        f"the default seccomp profile of {engine} {version or 'of no version'} is not known "
        f"(known are those of {engine} {known or '-'}), and that of another version could allow what "
        "it denies; name its file"
    )


def version_number(text: object) -> tuple[int, ...]:
    """Read a version's leading numbers, wherever they begin in *text*; empty if there are none."""
    found = re.search(r"\d+(\.\d+)*", str(text))
    return tuple(int(part) for part in found[0].split(".")) if found else ()
