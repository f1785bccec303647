"""Let docker-py's own calls take our steps: a client whose ``kernel_memory`` means something.

Every lifecycle call of docker-py's models ends in one of a few methods of its ``APIClient``. Those
are intercepted, once for a client of ours and once for ``kmem_harness.docker.patch()``; what does
not ask for kernel memory goes straight on to docker-py.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Protocol

import docker
import docker.errors
from docker.models.containers import Container, ContainerCollection
from docker.utils import split_command

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.sizes import UNLIMITED, parse_size
from kmem_harness.runtimes.labels import BOX, OURS
from kmem_harness.runtimes.spec import ExecSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.box import Box
    from kmem_harness.runtimes.docker import DockerRuntime
    from kmem_harness.runtimes.docker_box import DockerBox

__all__ = [
    "INTERCEPTED",
    "Door",
    "KmemAPIClient",
    "KmemClient",
    "KmemContainer",
    "with_limit_in_bytes",
]


class Door(Protocol):
    """The way from an API client to the runtime that holds its containers."""

    def runtime(self, api: Any) -> DockerRuntime:
        """Give the runtime for *api*'s engine, and make it if there is none yet."""

    def known(self, api: Any) -> DockerRuntime | None:
        """Give it if there is one."""


def with_limit_in_bytes(options: dict[str, Any]) -> dict[str, Any]:
    """Say ``kernel_memory`` in docker-py's own unit; leave it out where it is no limit.

    Raises: ConfigurationError for what is no size.
    """
    limit = options.get("kernel_memory")
    if limit is None:
        return options
    nbytes = parse_size(limit) if isinstance(limit, str) else limit
    if isinstance(nbytes, bool) or not isinstance(nbytes, int) or nbytes < UNLIMITED:
        raise ConfigurationError(
            f"kernel_memory={limit!r} is not a size: give bytes, or text such as '8m'; -1 is no limit"
        )
    if nbytes == UNLIMITED:
        return {name: value for name, value in options.items() if name != "kernel_memory"}
    return {**options, "kernel_memory": nbytes}


# -- what is intercepted: (door, api, docker-py's own method, its arguments) -----------------------


def _create(
    door: Door,
    api: Any,
    original: Callable[..., Any],
    config: dict[str, Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    limit = (config.get("HostConfig") or {}).get("KernelMemory") or 0
    if BOX not in (config.get("Labels") or {}) and limit <= 0:
        return original(config, *args, **kwargs)
    return door.runtime(api).create(config, lambda ours: original(ours, *args, **kwargs))


def _exec_create(
    door: Door,
    api: Any,
    original: Callable[..., Any],
    container: Any,
    cmd: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    running = _find(door, api, container)
    if running is None:
        return original(container, cmd, *args, **kwargs)
    words = split_command(cmd) if isinstance(cmd, str) else list(cmd)
    spec = ExecSpec(words, kwargs)
    with running.box.step("exec", spec=spec):
        made = original(container, spec.command, *args, **spec.options)
        spec.exec_id = made["Id"]
    return made


def _update(
    door: Door, api: Any, original: Callable[..., Any], container: Any, *args: Any, **kwargs: Any
) -> Any:
    asked = _UPDATE.bind(api, container, *args, **kwargs).arguments
    limit = asked.get("kernel_memory")
    if limit is None:
        return original(container, *args, **kwargs)
    running = _find(door, api, container)
    if running is None:
        raise ConfigurationError(
            f"container {container!r} was made without kernel_memory, so that nothing of it is "
            f"charged, and cannot be given {limit!r} any more; make it anew with kernel_memory"
        )
    running.box.memcg.kmem.limit = limit
    others = {
        name: value
        for name, value in asked.items()
        if name not in ("self", "container", "kernel_memory") and value is not None
    }
    return original(container, **others) if others else {"Warnings": None}


def _commit(
    door: Door, api: Any, original: Callable[..., Any], container: Any, *args: Any, **kwargs: Any
) -> Any:
    running = _find(door, api, container)
    if running is None:
        return original(container, *args, **kwargs)
    asked = dict(_COMMIT.bind(api, container, *args, **kwargs).arguments)
    conf = asked.pop("conf", None) or {}
    # Labels of a container cannot be taken off its image, but emptied: then it is nobody's.
    labels = {**dict.fromkeys(OURS, ""), **(conf.get("Labels") or {})}
    others = {name: value for name, value in asked.items() if name not in ("self", "container")}
    return original(container, **others, conf={**running.asked, **conf, "Labels": labels})


def _logs(
    door: Door,
    api: Any,
    original: Callable[..., Any],
    container: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    running = _find(door, api, container)
    asked = _LOGS.bind(api, container, *args, **kwargs)
    asked.apply_defaults()
    _, _, *options = asked.arguments
    how = {name: asked.arguments[name] for name in options}
    follow = how["stream"] if how["follow"] is None else how["follow"]
    # The last so many lines are others once the log has grown: what is missing could not be told.
    if running is None or not follow or how["tail"] != "all":
        return original(container, *args, **kwargs)
    return running.follow(functools.partial(original, container), how)


def _step(name: str) -> Callable[..., Any]:
    def intercepted(
        door: Door,
        api: Any,
        original: Callable[..., Any],
        container: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        running = _find(door, api, container)
        action = functools.partial(original, container, *args, **kwargs)
        return action() if running is None else running.take(name, action)

    return intercepted


# Behind docker-py's decorators, whose own arguments are named otherwise.
_LOGS = inspect.signature(docker.APIClient.logs)
_UPDATE = inspect.signature(docker.APIClient.update_container)
_COMMIT = inspect.signature(docker.APIClient.commit)

INTERCEPTED: dict[str, Callable[..., Any]] = {
    "create_container_from_config": _create,
    "exec_create": _exec_create,
    "update_container": _update,
    "logs": _logs,
    "commit": _commit,
    "start": _step("start"),
    "restart": _step("restart"),
    "stop": _step("stop"),
    "kill": _step("kill"),
    "pause": _step("pause"),
    "unpause": _step("unpause"),
    "remove_container": _step("remove"),
}


def _find(door: Door, api: Any, container: Any) -> DockerBox | None:
    runtime = door.known(api)
    return None if runtime is None else runtime.find(container)


# -- a client of ours ------------------------------------------------------------------------------


class KmemAPIClient(docker.APIClient):  # type: ignore[misc]
    """docker-py's API client, with the calls above intercepted."""

    kmem_door: Door


def _method(name: str, intercept: Callable[..., Any]) -> Callable[..., Any]:
    original = getattr(docker.APIClient, name)

    @functools.wraps(original)
    def method(self: KmemAPIClient, *args: Any, **kwargs: Any) -> Any:
        return intercept(self.kmem_door, self, functools.partial(original, self), *args, **kwargs)

    return method


for _name, _intercept in INTERCEPTED.items():
    setattr(KmemAPIClient, _name, _method(_name, _intercept))


class KmemContainer(Container):  # type: ignore[misc]
    """docker-py's container, with the box that holds it."""

    @property
    def kmem(self) -> Box | None:
        """The box of a container that has a kernel-memory limit, else ``None``."""
        running = _find(self.client.api.kmem_door, self.client.api, self.id)
        return None if running is None else running.box


class _Collection(ContainerCollection):  # type: ignore[misc]
    model = KmemContainer

    def create(self, image: Any, command: Any = None, **kwargs: Any) -> KmemContainer:
        """Create a container as docker-py does; ``kernel_memory`` takes our sizes, too."""
        try:
            made: KmemContainer = super().create(image, command, **with_limit_in_bytes(kwargs))
        except docker.errors.ImageNotFound as error:
            raise error.with_traceback(None) from None
        return made

    def run(self, image: Any, command: Any = None, **kwargs: Any) -> Any:
        """Run a container as docker-py does.

        Raises: ImageNotFound of one sentence where the image is missing and cannot be pulled either.
        """
        try:
            return super().run(image, command, **kwargs)
        except docker.errors.APIError as error:
            if not _follows_a_missing_image(error):
                raise
            why = error.explanation
        # Out of docker-py's own errors, of which each one tells its whole way.
        raise docker.errors.ImageNotFound(
            f"no such image: {image}; nor can it be pulled: {why}; build it, or check the spelling"
        )


def _follows_a_missing_image(error: BaseException) -> bool:
    """Say whether *error* was met on the way of an image that is not there."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, docker.errors.ImageNotFound):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


class KmemClient(docker.DockerClient):  # type: ignore[misc]
    """docker-py's client, whose ``kernel_memory`` means something again."""

    def __init__(self, *args: Any, door: Door, **kwargs: Any) -> None:
        """Connect as docker-py's client does."""
        self.api = KmemAPIClient(*args, **kwargs)
        self.api.kmem_door = door

    @property
    def containers(self) -> _Collection:
        """As docker-py's; its containers have ``.kmem``, the box that holds them."""
        return _Collection(client=self)
