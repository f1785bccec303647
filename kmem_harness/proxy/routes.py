"""Which requests of an engine's API concern us. Pure.

Source: the Docker Engine API's reference (v1.41 to v1.51), podman's (v4.0.0 on).
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Route", "hijacks", "route"]

_VERSION = r"(?:/v[0-9][0-9.]*)?"
_CONTAINER = re.compile(_VERSION + r"/containers/(?P<name>[^/]+)(?:/(?P<what>[a-z]+))?/?")
#: What is no step of one container: by which methods, and where.
_WHOLE = {
    "ping": (("GET", "HEAD"), re.compile(_VERSION + r"/_ping/?")),
    "create": (("POST",), re.compile(_VERSION + r"/containers/create/?")),
    "commit": (("POST",), re.compile(_VERSION + r"/commit/?")),
    "libpod-create": (("POST",), re.compile(_VERSION + r"/libpod/containers/create/?")),
}
_HIJACKING = re.compile(
    _VERSION + r"(?:/libpod)?/(?:containers/[^/]+/attach|exec/[^/]+/start|session|grpc)/?"
)
#: Steps of a container's life.
_STEPS = frozenset({"start", "stop", "restart", "kill", "pause", "unpause", "exec", "update"})


class Route(NamedTuple):
    """What is asked for: ``create``, ``ping``, ``commit``, ``libpod-create``, or a step of *name*."""

    what: str
    name: str = ""


def route(method: str, path: str) -> Route | None:
    """Say what a request asks for, ``None`` for what is no concern of ours."""
    for what, (methods, pattern) in _WHOLE.items():
        if method in methods and pattern.fullmatch(path):
            return Route(what)
    found = _CONTAINER.fullmatch(path)
    if found is None:
        return None
    name, what = found["name"], found["what"] or ""
    if method == "DELETE" and not what:
        return Route("remove", name)
    return Route(what, name) if method == "POST" and what in _STEPS else None


def hijacks(method: str, path: str) -> bool:
    """Say whether the connection of a request may become a stream in both directions."""
    return method == "POST" and _HIJACKING.fullmatch(path) is not None
