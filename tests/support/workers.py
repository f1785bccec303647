"""Spread the suite over pytest-xdist's workers: each file whole, each engine's tests to one of them.

Knows which rooms share an engine; knows nothing of what they test.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

__all__ = ["ByFileOrEngine"]

#: These compare what an engine has before and after, so nobody else may use it meanwhile.
_ENGINES = {
    "tests/adversary/test_docker.py": "docker",
    "tests/containers": "docker",
    "tests/docker": "docker",
    "tests/docker_matrix": "docker",
    "tests/proxy": "docker",
    "tests/podman": "podman",
}


class ByFileOrEngine(LoadScopeScheduling):
    """Hand out files, which share fixtures, and the rooms of one engine together."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePosixPath(nodeid.partition("::")[0])
        for place in (file, *file.parents):
            if str(place) in _ENGINES:
                return _ENGINES[str(place)]
        return str(file)
