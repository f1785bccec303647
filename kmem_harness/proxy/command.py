"""``kmem-harness proxy``."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import DEFAULT_PROFILE
from kmem_harness.harness import Harness
from kmem_harness.logs import log_options, logger, show_logs
from kmem_harness.proxy.server import Proxy, listening, told_to_stop
from kmem_harness.proxy.steps import Steps
from kmem_harness.runtimes.default_profiles import version_number
from kmem_harness.runtimes.docker import DockerRuntime
from kmem_harness.runtimes.engine import local_socket
from kmem_harness.runtimes.native import LISTENERS
from kmem_harness.serve.refusals import RefusalLog
from kmem_harness.terms import Terms, memcg_and_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["proxy"]


@click.command()
@click.option(
    "--listen",
    metavar="unix://PATH",
    help="Where clients come (default: /run/kmem-harness/docker.sock, for others than root in "
    "$XDG_RUNTIME_DIR).",
)
@click.option("--default", metavar="SIZE", help="The limit of containers that ask for none.")
@click.option(
    "--memcg",
    "memcgs",
    metavar="PATH=SIZE",
    multiple=True,
    help="Make memcg PATH with a limit, for containers below it; may be given more than once.",
)
@click.option(
    "--kernel",
    metavar="PROFILE",
    default=DEFAULT_PROFILE,
    show_default=True,
    help="Kernel to emulate: v4, 3.8, 3.12 or 5.10.",
)
@click.option(
    "--docker-listener",
    type=click.Choice(LISTENERS),
    default="auto",
    help="Who filters a container: our shim, the engine's runtime, or that where it has no drawback.",
)
@click.option(
    "--api",
    metavar="VERSION",
    default="1.41",
    show_default=True,
    help="The newest version of the API that clients are told of: after 1.41, docker's command line "
    "drops --kernel-memory in silence. 'engine' for the engine's own.",
)
@log_options
def proxy(
    *,
    listen: str | None,
    default: str | None,
    memcgs: tuple[str, ...],
    kernel: str,
    docker_listener: str,
    api: str,
    log_level: str,
    log_json: bool,
) -> None:
    """Give kernel memory back to every client of the engine at $DOCKER_HOST.

    \b
    kmem-harness proxy &
    export DOCKER_HOST=unix:///run/kmem-harness/docker.sock
    docker run --label io.github.kmem-harness.limit=8m alpine ...

    Containers with a limit end with the proxy, and are removed: nobody else could answer their calls.
    """  # noqa: D301 - click's own mark for a line to keep
    show_logs(log_level, as_json=log_json)
    log = logger()
    address = listen or f"unix://{_default_path()}"
    limits = [memcg_and_limit(text) for text in memcgs]
    terms = None
    if default is not None:
        terms = Terms(limit=default)
        terms.check()
    if api != "engine" and not api.replace(".", "", 1).isdigit():
        raise ConfigurationError(f"--api {api!r} is no version: write 1.41, for example, or engine")
    engine = local_socket()
    if address.removeprefix("unix://") == engine:
        raise ConfigurationError(
            f"$DOCKER_HOST is {engine!r}, where the proxy itself is to listen: set it to the engine's "
            "own socket for the proxy, and to the proxy's for its clients"
        )
    with ExitStack() as stack:
        stop = stack.enter_context(told_to_stop())
        harness = stack.enter_context(
            Harness(kernel, docker_listener=docker_listener, plugins=[RefusalLog(log)])
        )
        for path, limit in limits:
            harness.memcg(path, limit)
        runtime = DockerRuntime(harness, engine)
        harness.add_runtime("docker", runtime)
        stack.callback(runtime.remove_all)
        door = stack.enter_context(listening(address, engine))
        told = _told(api, runtime.client.version(api_version=False), log)
        server = Proxy(door, engine, Steps(runtime, engine, terms, told), log)
        stack.callback(server.close)
        log.info("proxy.started", pid=os.getpid(), listen=address, engine=engine)
        server.run(stop)
        log.info("proxy.stopped")


def _told(api: str, engine: Mapping[str, Any], log: Any) -> str | None:
    """Give the version that clients are told of, ``None`` for the engine's own."""
    own, least = (version_number(engine.get(name, "0")) for name in ("ApiVersion", "MinAPIVersion"))
    if api == "engine" or own <= version_number(api):
        return None
    if least > version_number(api):
        log.warning(
            "api.kept",
            engine=engine.get("ApiVersion"),
            reason=f"the engine speaks no {api} any more: clients drop --kernel-memory in silence",
            remedy="give the limit as a label: io.github.kmem-harness.limit=8m",
        )
        return None
    return api


def _default_path() -> str:
    if os.geteuid() == 0:
        return "/run/kmem-harness/docker.sock"
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return f"{base}/kmem-harness/docker.sock"
