"""Connect to the Docker engine of this kernel, or say why not and what to do.

Asks again where that helps: an engine that is coming up, one in the middle of an end or a removal.
Knows docker-py's connections; knows no boxes. Only an engine on this very kernel will do: the
controller counts a container's tasks through procfs, and hands its filter to processes of ours.
"""

from __future__ import annotations

import os
import platform
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import docker
import docker.errors
import requests.exceptions
import tenacity

from kmem_harness.core.errors import ConfigurationError, KmemHarnessError, UnsupportedHostError
from kmem_harness.runtimes.command import CommandNotExecutableError, CommandNotFoundError
from kmem_harness.runtimes.sidecar import HOW_TO_START

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CONFLICT",
    "EngineError",
    "check_engine",
    "engine_address",
    "engine_socket",
    "inspect_container",
    "local_socket",
    "readable_errors",
    "remove_container",
    "see_inside",
]

_CREDENTIALS = struct.Struct("=iII")
_DEFAULT_SOCKET = "/var/run/docker.sock"
#: An engine that is just coming up has its socket before it listens on it.
_COMING_UP_SECONDS = 3.0
_INSPECT_SECONDS = 2.0
_REMOVE_SECONDS = 30.0
_AGAIN_SECONDS = 0.01
CONFLICT = 409  # HTTP
#: How an engine's runtime says that there is nothing to execute.
_CANNOT_RUN = {
    "executable file not found": CommandNotFoundError,
    "no such file or directory: unknown": CommandNotFoundError,
    "permission denied: unknown": CommandNotExecutableError,
}
_LOCAL_NEEDS_NONE = "the local runtime (--runtime local) needs no engine"


class EngineError(KmemHarnessError):
    """The engine refused a request of ours."""


def engine_address() -> str:
    """Find the engine's address from the environment, wherever it is."""
    return os.environ.get("DOCKER_HOST") or f"unix://{_DEFAULT_SOCKET}"


def local_socket() -> str:
    """Find the engine's unix socket from the environment.

    Raises: UnsupportedHostError for an engine that is reached over a network.
    """
    host = engine_address()
    scheme, separator, path = host.partition("://")
    if scheme == "unix" and path:
        return "/" + path.lstrip("/")
    if not separator:
        raise ConfigurationError(
            f"DOCKER_HOST={host!r} is no address: give unix:///path/of/docker.sock"
        )
    raise _remote(f"DOCKER_HOST={host}")


def engine_socket(api: Any) -> str:
    """Find the unix socket a docker-py API client talks to. Raises: UnsupportedHostError."""
    path = getattr(getattr(api, "_custom_adapter", None), "socket_path", None)
    if path is None:
        raise _remote(f"the engine at {api.base_url}")
    return str(path)


def check_engine(client: Any, address: str, beside: str | None = None) -> dict[str, Any]:
    """See that the engine answers and runs where its containers are seen; give its version.

    That is on this kernel and in our pid namespace, or else on the kernel *beside* it, which a
    controller on its own host runs on. Raises: UnsupportedHostError.
    """
    with readable_errors(address):
        version: dict[str, Any] = _ask_version(client)
    kernel = version.get("KernelVersion")
    ours = beside or platform.release()
    if kernel is not None and kernel != ours:
        raise UnsupportedHostError(
            f"the engine at {address} runs on another kernel ({kernel}, not {ours}), "
            "as Docker Desktop's does: its containers cannot be seen from here",
            missing="an engine on this kernel",
            remedy=f"run kmem-harness on the engine's own host, or {HOW_TO_START}; "
            f"{_LOCAL_NEEDS_NONE}",
        )
    if beside is None and not _is_visible(address):
        raise UnsupportedHostError(
            f"the engine at {address} is outside of our pid namespace, as where its socket is mounted "
            "into a container that we run in: its containers cannot be seen from here",
            missing="an engine in this pid namespace",
            remedy=f"run kmem-harness on the engine's own host, or in its pid namespace (docker run "
            f"--pid host); or {HOW_TO_START}; {_LOCAL_NEEDS_NONE}",
        )
    return version


def _is_visible(path: str) -> bool:
    """Say whether whoever listens on *path* has a pid in our namespace."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
    return bool(_CREDENTIALS.unpack(credentials)[0])


@contextmanager
def readable_errors(address: str) -> Iterator[None]:
    """Turn docker-py's errors into ours, each with what to do."""
    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise ConfigurationError(
            f"{error.explanation or error}: the engine has no such image; build it, pull it "
            "(docker pull), or check the spelling"
        ) from error
    except docker.errors.APIError as error:
        for phrase, kind in _CANNOT_RUN.items():
            if phrase in str(error.explanation):
                message = f"{error.explanation}; check the command's spelling, or give its path"
                raise kind(message) from error
        raise EngineError(f"the engine refused: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise _unreachable(address, error) from error


@tenacity.retry(
    # podman looks for the process of a container that is just ending, and says so with a 500.
    retry=tenacity.retry_if_exception(
        lambda error: isinstance(error, docker.errors.APIError) and error.is_server_error()
    ),
    stop=tenacity.stop_after_delay(_INSPECT_SECONDS),
    wait=tenacity.wait_fixed(_AGAIN_SECONDS),
    reraise=True,
)
def inspect_container(api: Any, container_id: str) -> dict[str, Any]:
    """Give what the engine knows of a container."""
    return dict(api.inspect_container(container_id))


@tenacity.retry(
    # Another removal of it is under way: it is over when the container is not found.
    retry=tenacity.retry_if_exception(
        lambda error: isinstance(error, docker.errors.APIError) and error.status_code == CONFLICT
    ),
    stop=tenacity.stop_after_delay(_REMOVE_SECONDS),
    wait=tenacity.wait_fixed(_AGAIN_SECONDS),
    reraise=True,
)
def remove_container(container: Any) -> None:
    """Remove a container with its anonymous volumes, running or not. Raises: NotFound."""
    container.remove(v=True, force=True)


def see_inside(pid: int) -> None:
    """See that the container's tasks can be counted. Raises: UnsupportedHostError."""
    try:
        os.close(os.open(f"/proc/{pid}/root/proc", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError as error:
        raise UnsupportedHostError(
            f"this user may not look into the engine's containers: {error}",
            missing="the right to count a container's tasks (/proc/PID/root)",
            remedy="run as the user the engine's containers run as: as root, or with a rootless "
            "engine of your own; the local runtime (--runtime local) needs neither",
        ) from error
    except FileNotFoundError:  # it has ended already, which the controller will say
        pass


@tenacity.retry(
    retry=tenacity.retry_if_exception(lambda error: _caused_by(error, ConnectionRefusedError)),
    stop=tenacity.stop_after_delay(_COMING_UP_SECONDS),
    wait=tenacity.wait_fixed(0.1),
    reraise=True,
)
def _ask_version(client: Any) -> dict[str, Any]:
    return dict(client.version(api_version=False))


def _caused_by(error: BaseException | None, kind: type[OSError]) -> bool:
    """Look for *kind* under the layers of docker-py, requests and urllib3."""
    while error is not None:
        if isinstance(error, kind) or any(isinstance(one, kind) for one in error.args):
            return True
        inner = [one for one in error.args if isinstance(one, BaseException)]
        error = inner[0] if inner else error.__cause__ or error.__context__
    return False


def _unreachable(address: str, error: Exception) -> UnsupportedHostError:
    if "://" in address:
        why, remedy = str(error), "see that it can be reached from here"
    elif not os.path.exists(address):
        why, remedy = "there is no such socket", "start it (systemctl start docker, or dockerd)"
    elif not os.access(address, os.R_OK | os.W_OK):
        why = "this user may not use it"
        remedy = "run as root, or join the group that owns the socket (usually docker)"
    elif _caused_by(error, ConnectionRefusedError):
        why, remedy = "nothing listens on it", "start it (systemctl start docker, or dockerd)"
    else:
        why, remedy = str(error), "see the engine's log"
    return UnsupportedHostError(
        f"no engine answers at {address if '://' in address else f'unix://{address}'}: {why}",
        missing="Docker engine",
        remedy=f"{remedy}, or set DOCKER_HOST; {_LOCAL_NEEDS_NONE}",
    )


def _remote(what: str) -> UnsupportedHostError:
    return UnsupportedHostError(
        f"{what} is reached over a network, and may run on another kernel: its containers cannot "
        "be held or counted from here",
        missing="an engine on this machine, reached through its unix socket",
        remedy=f"{HOW_TO_START}; or run kmem-harness on the engine's own host, or set "
        f"DOCKER_HOST=unix:///path; {_LOCAL_NEEDS_NONE}",
    )
