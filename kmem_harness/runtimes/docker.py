"""Run boxes as containers of a Docker engine on this kernel, any image, unchanged.

A container starts under the shim, which finds its socket in a directory mounted into it. Every
lifecycle call, ours or of code that only knows docker-py, takes the steps of ``hookspecs.py``;
starts by the engine itself, and commands run beside ours, are learned from its events.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import docker.errors
import requests.exceptions
from docker.utils import kwargs_from_env

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.logs import logger
from kmem_harness.runtimes import wrapping
from kmem_harness.runtimes.docker_box import DockerBox
from kmem_harness.runtimes.engine import (
    check_engine,
    engine_address,
    local_socket,
    readable_errors,
)
from kmem_harness.runtimes.interception import KmemClient
from kmem_harness.runtimes.labels import BOX, COMMAND, Labels, sweep
from kmem_harness.runtimes.local import SHIM
from kmem_harness.runtimes.logs import Log
from kmem_harness.runtimes.native import NativeListener
from kmem_harness.runtimes.spec import BoxSpec, ContainerSpec
from kmem_harness.runtimes.watcher import Watcher
from kmem_harness.runtimes.wiring import Wiring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kmem_harness.box import Box
    from kmem_harness.harness import Harness
    from kmem_harness.runtimes.sidecar import SidecarController

__all__ = ["DockerRuntime"]

_WHOLE_ID = re.compile("[0-9a-f]{64}")


class DockerRuntime:
    """Run boxes in the engine at one unix socket."""

    name = "docker"
    isolation = "container"
    lasting = True
    fires_own_hooks = True

    def __init__(self, harness: Harness, socket: str | None = None) -> None:
        """Connect to the engine at *socket*, by default that of $DOCKER_HOST; sweep it.

        Raises: UnsupportedHostError.
        """
        elsewhere = (
            cast("SidecarController", harness.controller) if harness.controller.remote else None
        )
        #: Whether only the controller, and not we, can see the engine's containers.
        self.remote = elsewhere is not None
        self.socket = engine_address() if elsewhere else socket or local_socket()
        #: Where the controller finds the engine, and the engine the shim.
        self.engine_socket = elsewhere.engine_socket if elsewhere else self.socket
        self.shim = elsewhere.shim if elsewhere else SHIM
        self.log = logger()
        self._harness = harness
        self._boxes: dict[str, DockerBox] = {}
        self._pending: dict[str, Box] = {}
        self._session = os.path.basename(harness.controller.directory)
        with readable_errors(self.socket):
            where = kwargs_from_env() if elsewhere else {"base_url": f"unix://{self.socket}"}
            self.client = KmemClient(**where, door=self, timeout=60)
        try:
            version = check_engine(
                self.client, self.socket, elsewhere.release if elsewhere else None
            )
            self.native = NativeListener(self.client, version)
            with readable_errors(self.socket):
                for name in sweep(self.client.api):
                    self.log.warning("container.swept", container=name)
                self._watcher = Watcher(self, self._session, harness.controller.pidfd)
        except BaseException:
            self.client.close()
            raise
        for plugin in (Labels(self._session), Wiring(), Log()):
            name = f"kmem_harness.{type(plugin).__name__.lower()}"
            if not harness.hooks.manager.has_plugin(name):
                harness.hooks.register(plugin, name)

    def runtime(self, _: Any) -> DockerRuntime:
        """Be the door of our own client."""
        return self

    known = runtime

    def find(self, container: Any) -> DockerBox | None:
        """Find a container of ours by what its engine takes for it: an id, any part of one, a name.

        All but a whole id is the engine's to resolve: it knows of other containers, and of new names.
        """
        name = str(
            container.get("Id") or container.get("ID") if isinstance(container, dict) else container
        )
        if name in self._boxes or not self._boxes or _WHOLE_ID.fullmatch(name):
            return self._boxes.get(name)
        try:
            found = self.plain("inspect_container", name)
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            return None  # what is about to be asked of it will fail, and say so
        return self._boxes.get(found["Id"])

    def check(self, spec: BoxSpec) -> BoxSpec:
        """See that there is an image, and that the command is a list. Raises: ConfigurationError."""
        if not spec.image:
            message = "runtime 'docker' needs an image: give image='...' (--image REF)"
            raise ConfigurationError(message)
        if isinstance(spec.command, str) or not all(isinstance(word, str) for word in spec.command):
            message = (
                f"command {spec.command!r} is not a list of words; "
                'give ["sh", "-c", "..."] to have a shell split it'
            )
            raise ConfigurationError(message)
        return spec._replace(command=tuple(spec.command))

    def run(self, box: Box) -> None:
        """Create and start the container of *box*."""
        spec = box.spec
        options = {"name": f"kmem-{spec.name}", **spec.options}
        labels = options.pop("labels", None) or {}
        if not isinstance(labels, dict):
            labels = dict.fromkeys(labels, "")
        own = {
            "environment": None if spec.env is None else dict(spec.env),
            "working_dir": spec.cwd,
            "pids_limit": spec.pids_max,
            "stdin_open": spec.stdin is not None or None,
        }
        options.update({name: value for name, value in own.items() if value is not None})
        self._pending[box.name] = box
        try:
            with readable_errors(self.socket):
                container = self.client.containers.create(
                    spec.image,
                    list(spec.command) or None,
                    labels={**labels, BOX: box.name},
                    **options,
                )
                running = self._boxes[container.id]
                running.adopt(container)
                running.attach()
                container.start()
        except TypeError as error:  # docker-py's word for an option it does not know
            raise ConfigurationError(f"containers.create: {error}") from error
        finally:
            self._pending.pop(box.name, None)

    def create(
        self,
        config: dict[str, Any],
        original: Callable[[dict[str, Any]], Any],
        account: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Carry out a create request that asks for kernel memory, through its client's *original*.

        *account* says what :meth:`Harness.open_account` is to be asked for, beside what *config* says.
        """
        config = copy.deepcopy(dict(config))
        labels = dict(config.get("Labels") or {})
        pending = self._pending.get(labels.pop(BOX, ""))
        limit = (config.get("HostConfig") or {}).pop("KernelMemory", None)
        image = self.client.api.inspect_image(config["Image"])
        wrapping.check_config(config, image)
        command = wrapping.command_of(config, image)
        if pending is None:
            spec = BoxSpec(self._harness.new_name(), tuple(command), image=config["Image"])
            terms = {"kmem_limit": limit, **(account or {})}
            box = self._harness.open_account(spec, self, **terms)
        else:
            box = pending
        made = ContainerSpec(
            runtime=self.name,
            image=config["Image"],
            memcg=box.memcg.path,
            command=command,
            labels=labels,
            config=config,
        )
        running = DockerBox(self, box, config["Image"])
        running.asked = wrapping.own_words(config, image)
        box.attach(running)
        running.rewrite = functools.partial(self._rewrite, box=box, image=image)
        try:
            with box.step("create", spec=made):
                created: dict[str, Any] = original(made.config)
                running.created(created["Id"])
                self._boxes[created["Id"]] = running
                if pending is None:  # else the one of our own call will do
                    running.adopt(self.client.containers.get(created["Id"]))
        except BaseException:
            box.discard()
            raise
        return created

    def plain(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of docker-py's API client without our steps."""
        return getattr(docker.APIClient, method)(self.client.api, *args, **kwargs)

    def forget(self, running: DockerBox) -> None:
        """Drop a container that is no more."""
        self._boxes.pop(running.container_id, None)

    def lose_sight(self) -> None:
        """Have those look for themselves who wait to be told of a container's end."""
        for running in list(self._boxes.values()):
            running.first.cut()

    def end_all(self) -> None:
        """Kill every container: without a controller their calls would only fail."""
        for running in list(self._boxes.values()):
            with suppress(docker.errors.DockerException, requests.exceptions.RequestException):
                self.plain("kill", running.container_id)

    def remove_all(self) -> None:
        """End and remove every container."""
        for running in list(self._boxes.values()):
            running.box.close()

    def close(self) -> None:
        """Stop watching and hang up."""
        self._watcher.close()
        self.client.close()

    def _listens_natively(self, box: Box, config: dict[str, Any]) -> bool:
        """Say whether the engine's runtime shall install the filter.

        Raises: ConfigurationError, UnsupportedHostError if it was told to and cannot.
        """
        asked = self._harness.docker_listener
        # A profile, or its file, would have to be put where the engine is; and a fault rule would
        # count what the runtime itself calls before it is the command.
        why_not = "fault rules" if box.has_faults else "a controller elsewhere" * self.remote
        if not why_not:
            return self.native.chosen(asked, config)
        if asked == "native":
            raise ConfigurationError(
                f"docker listener 'native' cannot be had together with {why_not}; use the shim "
                "(--docker-listener shim)"
            )
        return False

    def _rewrite(self, spec: ContainerSpec, *, box: Box, image: dict[str, Any]) -> None:
        """Put the container under its filter, if anything limits it, and label it."""
        spec.config["Labels"] = spec.labels
        if box.socket is None:
            return
        spec.labels[COMMAND] = json.dumps(spec.command)
        if self._listens_natively(box, spec.config):
            if spec.command != wrapping.command_of(spec.config, image):  # a plugin changed it
                wrapping.set_command(spec.config, spec.command)
            self.native.put_into(spec.config, box.listen_natively)
        else:
            self.native.see_no_other(spec.config)
            wrapping.wrap(spec.config, image, spec.command, self.shim, box.socket)
