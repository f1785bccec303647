"""Give docker-py's ``kernel_memory`` back its meaning: a client of ours, and a patch for all others.

    client = kmem_harness.docker.from_env()
    container = client.containers.run("alpine", [...], kernel_memory="8m", detach=True)
    container.kmem.report()

Containers without ``kernel_memory`` are docker-py's own business, untouched. Those with it live as
long as their client, or their patch, does: nobody else could answer their calls.
"""

from __future__ import annotations

import atexit
import functools
import threading
from typing import TYPE_CHECKING, Any

import docker
from docker.models.containers import Container, ContainerCollection

from kmem_harness.harness import Harness
from kmem_harness.runtimes.docker import DockerRuntime
from kmem_harness.runtimes.engine import engine_socket, local_socket, readable_errors
from kmem_harness.runtimes.interception import (
    INTERCEPTED,
    KmemAPIClient,
    KmemClient,
    KmemContainer,
    with_limit_in_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from kmem_harness.box import Box

__all__ = ["Client", "KmemContainer", "Patch", "from_env", "patch"]


class _Sessions:
    """Makes a harness when a container first asks for kernel memory, and a runtime for each engine."""

    def __init__(self, harness: Harness | Callable[[], Harness] | None = None) -> None:
        """Use *harness*, or one of our own, which :meth:`close` ends."""
        self._lock = threading.Lock()
        self._given = harness
        self._own: Harness | None = None
        self._runtimes: dict[str, DockerRuntime] = {}

    def runtime(self, api: Any) -> DockerRuntime:
        """Give the runtime for *api*'s engine. Raises: UnsupportedHostError if that is remote."""
        with self._lock:
            given = self._given if isinstance(self._given, Harness) else None
            elsewhere = given is not None and given.controller.remote
            socket = str(api.base_url) if elsewhere else engine_socket(api)
            if socket not in self._runtimes:
                harness = self._harness()
                self._runtimes[socket] = DockerRuntime(harness, socket)
                harness.add_runtime(f"docker:{socket}", self._runtimes[socket])
            return self._runtimes[socket]

    def known(self, api: Any) -> DockerRuntime | None:
        """Give it if some container of that engine has asked for kernel memory."""
        if not self._runtimes:
            return None
        path = getattr(getattr(api, "_custom_adapter", None), "socket_path", None)
        return self._runtimes.get(path or "") or self._runtimes.get(str(api.base_url))

    def close(self) -> None:
        """End every container, and a harness of our own."""
        with self._lock:
            runtimes, self._runtimes = list(self._runtimes.values()), {}
            for runtime in runtimes:
                runtime.remove_all()
                runtime.close()
            if self._own is not None:
                self._own.close()
                self._own = None

    def _harness(self) -> Harness:
        if isinstance(self._given, Harness):
            return self._given
        if self._given is not None:
            return self._given()
        if self._own is None:
            self._own = Harness()
        return self._own


class Client(KmemClient):
    """docker-py's client, whose ``containers.run`` and ``create`` take ``kernel_memory`` again.

    Closing it ends and removes the containers that have a limit.
    """

    def __init__(self, *args: Any, harness: Harness | None = None, **kwargs: Any) -> None:
        """Connect as ``docker.DockerClient`` does; charge to memcgs of *harness*, if given."""
        self._sessions = _Sessions(harness)
        super().__init__(*args, door=self._sessions, **kwargs)
        atexit.register(self._sessions.close)

    def close(self) -> None:
        """End the containers that have a limit, and hang up."""
        atexit.unregister(self._sessions.close)
        self._sessions.close()
        super().close()


def from_env(harness: Harness | None = None, **options: Any) -> Client:
    """Make a client as ``docker.from_env`` does, with *options* of that.

    Raises: UnsupportedHostError if no engine answers, or one that is not on this machine.
    """
    elsewhere = harness is not None and harness.controller.remote
    socket = "" if elsewhere or "environment" in options else local_socket()
    with readable_errors(socket):
        client: Client = Client.from_env(**options)
    if harness is not None:
        client._sessions._given = harness  # noqa: SLF001 - docker-py's from_env passes nothing on
    return client


_patching = threading.Lock()


class Patch:
    """docker-py as it is patched; :meth:`undo`, or leaving it as a context manager, ends that."""

    def __init__(self, sessions: _Sessions, create: Callable[..., Any]) -> None:
        """Remember what to put back."""
        self._sessions = sessions
        self._create = create
        self._undone = False

    def __enter__(self) -> Self:
        """Give the patch itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Undo it."""
        self.undo()

    def undo(self) -> None:
        """Put docker-py back, and end the containers that have a limit. May be called again."""
        if self._undone:
            return
        self._undone = True
        atexit.unregister(self.undo)
        for name in INTERCEPTED:
            delattr(docker.APIClient, name)
        ContainerCollection.create = self._create
        del Container.kmem
        _patching.release()
        self._sessions.close()


def patch(
    harness: Harness | Callable[[], Harness] | None = None,
    kernel_memory: str | int | None = None,
) -> Patch:
    """Give ``kernel_memory`` its meaning for every docker-py client of this process, from now on.

    For code that calls docker-py itself. Containers get ``.kmem``, their box. *kernel_memory* is the
    limit of those that ask for none, for code that cannot pass one on. The patch lasts until it is
    undone or left as a context manager, else to the end of the process; containers that have a
    limit end with it.

    Raises: RuntimeError if docker-py is patched already; ConfigurationError.
    """
    default = {} if kernel_memory is None else {"kernel_memory": kernel_memory}
    with_limit_in_bytes(default)  # before anything is patched
    if not _patching.acquire(blocking=False):
        raise RuntimeError("docker-py is patched already; undo that patch first")
    sessions = _Sessions(harness)
    create = ContainerCollection.create

    @functools.wraps(create)
    def create_with_limit(self: Any, image: Any, command: Any = None, **kwargs: Any) -> Any:
        if not isinstance(self.client, KmemClient):
            kwargs = with_limit_in_bytes({**default, **kwargs})
        return create(self, image, command, **kwargs)

    for name, intercept in INTERCEPTED.items():
        setattr(docker.APIClient, name, _patched(name, intercept, sessions))
    ContainerCollection.create = create_with_limit
    Container.kmem = property(lambda container: _box_of(sessions, container))
    patched = Patch(sessions, create)
    atexit.register(patched.undo)
    return patched


def _patched(name: str, intercept: Callable[..., Any], door: _Sessions) -> Callable[..., Any]:
    original = getattr(
        docker.APIClient, name
    )  # from a mixin: ours goes before it, and is taken off

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, KmemAPIClient):  # a client of ours, which has a door of its own
            return original(self, *args, **kwargs)
        return intercept(door, self, functools.partial(original, self), *args, **kwargs)

    return method


def _box_of(door: _Sessions, container: Any) -> Box | None:
    runtime = door.known(container.client.api)
    running = None if runtime is None else runtime.find(container.id)
    return None if running is None else running.box
