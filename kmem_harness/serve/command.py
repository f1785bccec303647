"""``kmem-harness serve``, ``profile``, ``report`` and ``runtime``."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from kmem_harness.controller.door.protocol import error_from, receive, send
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import DEFAULT_PROFILE
from kmem_harness.harness import Harness
from kmem_harness.logs import log_options, logger, show_logs
from kmem_harness.runtimes.native import read_profile
from kmem_harness.serve.install import ENGINES, Installation, install, uninstall
from kmem_harness.serve.places import control_of, default_socket, default_state
from kmem_harness.serve.profiles import SIZES, base_of, static_profile
from kmem_harness.serve.service import Settings, run
from kmem_harness.serve.state import find_report
from kmem_harness.terms import MODES, Terms, memcg_and_limit

__all__ = ["profile", "report", "runtime", "serve"]

_ANSWER_SECONDS = 30.0
_PATH = click.Path(path_type=Path)


def _socket_option(command: Any) -> Any:
    return click.option(
        "--socket",
        "path",
        metavar="PATH",
        type=_PATH,
        help="Where runtimes hand over listeners (default: /run/kmem-harness/serve.sock, for others "
        "than root in $XDG_RUNTIME_DIR).",
    )(command)


def _state_option(command: Any) -> Any:
    return click.option(
        "--state",
        metavar="DIR",
        type=_PATH,
        help="Where reports are kept (default: /var/lib/kmem-harness, for others than root "
        "~/.local/state/kmem-harness).",
    )(command)


@click.command()
@_socket_option
@_state_option
@click.option(
    "--kernel",
    metavar="PROFILE",
    default=DEFAULT_PROFILE,
    show_default=True,
    help="Kernel to emulate: v4, 3.8, 3.12 or 5.10.",
)
@click.option(
    "--memcg",
    "memcgs",
    metavar="PATH=SIZE",
    multiple=True,
    help="Make memcg PATH with a limit, for containers below it; may be given more than once.",
)
@click.option(
    "--keep",
    metavar="S",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    help="Close an account when its container has been gone for S seconds.",
)
@click.option("--events", metavar="FILE.jsonl", help="Append every refusal there, one a line.")
@log_options
def serve(
    *,
    path: Path | None,
    state: Path | None,
    kernel: str,
    memcgs: tuple[str, ...],
    keep: float,
    events: str | None,
    log_level: str,
    log_json: bool,
) -> NoReturn:
    """Hold containers of any engine under their limits, until told to end.

    Containers come in through a seccomp profile (kmem-harness profile) or the OCI wrapper
    (kmem-harness runtime); each has an account by its id. They end with this: nobody else could answer
    their calls.
    """
    show_logs(log_level, as_json=log_json)
    settings = Settings(
        path=path or default_socket(),
        state=state or default_state(),
        kernel=kernel,
        keep=keep,
        memcgs=tuple(memcg_and_limit(text) for text in memcgs),
        events=events,
    )
    sys.exit(run(settings, logger()))


@click.command()
@click.argument("size", required=False)
@click.option(
    "--all", "directory", metavar="DIR", type=_PATH, help="Write one for each size there."
)
@click.option(
    "--for",
    "engine",
    metavar="ENGINE",
    help="docker:26.1, podman:5.4 or ctr (default: ask the engine at $DOCKER_HOST).",
)
@click.option(
    "--base", metavar="FILE", type=_PATH, help="Extend this profile, not the engine's default."
)
@_socket_option
@click.option("--kinds", metavar="KIND,...", help="Charge these kinds of objects alone.")
@click.option("--mode", type=click.Choice(MODES), default="enforce", help="Refuse, or count alone.")
@click.option("--inject", metavar="RULE", multiple=True, help="Fail or delay calls by rule.")
@click.option("--memcg", metavar="PATH", default="", help="Memcg that containers are made in.")
@click.option("--kernel", metavar="PROFILE", default=DEFAULT_PROFILE, help="Kernel to emulate.")
@click.option(
    "--wait-killable/--no-wait-killable",
    default=None,
    help="Whether the runtime takes WAIT_KILLABLE_RECV (crun from 1.8, runc from 1.5).",
)
def profile(
    *,
    size: str | None,
    directory: Path | None,
    engine: str | None,
    base: Path | None,
    path: Path | None,
    kinds: str | None,
    mode: str,
    inject: tuple[str, ...],
    memcg: str,
    kernel: str,
    wait_killable: bool | None,
) -> None:
    """Print a seccomp profile that puts any container under SIZE of kernel memory.

    \b
    kmem-harness serve &
    kmem-harness profile 8m > 8m.json
    docker run --security-opt seccomp=8m.json alpine ...
    """  # noqa: D301 - click's own mark for a line to keep
    if (directory is not None) == (size is not None) and not (memcg and directory is None):
        message = "give one SIZE, or --all DIR (or --memcg PATH, whose limit is the containers')"
        raise click.UsageError(message)
    found, killable = base_of(engine) if base is None else (read_profile(str(base)), False)
    terms = Terms(
        limit=size or "",
        kinds=tuple(kinds.split(",")) if kinds else (),
        mode=mode,
        inject=inject,
        memcg=memcg,
        kernel=kernel,
        killable=killable if wait_killable is None else wait_killable,
    )
    sizes = SIZES if directory is not None else (terms.limit,)
    for each in sizes:
        terms._replace(limit=each).check()
    socket_path = path or default_socket()
    with Harness(kernel) as harness:
        for each in sizes:
            made = static_profile(harness, found, terms._replace(limit=each), socket_path)
            text = json.dumps(made, indent=1) + "\n"
            if directory is None:
                click.echo(text, nl=False)
            else:
                directory.mkdir(parents=True, exist_ok=True)
                (directory / f"{each}.json").write_text(text, encoding="utf-8")


@click.command()
@click.argument("container")
@_socket_option
@_state_option
def report(*, container: str, path: Path | None, state: Path | None) -> None:
    """Print the report of a container of kmem-harness serve, by its id or the beginning of it.

    While its account is open from the running controller, else from what that has kept.
    """
    found = _ask(path or default_socket(), {"op": "report", "id": container}).get("report")
    found = found or find_report(state or default_state(), container)
    if found is None:
        raise ConfigurationError(
            f"no container {container!r} has an account, or a report that was kept; see the log of "
            "kmem-harness serve, or give --socket and --state as it has them"
        )
    click.echo(json.dumps(found, indent=2))


def _ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        if connection.connect_ex(str(control_of(path))) != 0:
            return {}  # none runs
        send(connection, request)
        reply, _ = receive(connection)
    if "error" in reply:
        raise error_from(reply["error"])
    return reply


@click.group()
def runtime() -> None:
    """Put kmem-runtime before an engine's OCI runtime, or take it out again.

    For engines that drop a profile's listener, such as Docker 20.10. A container asks for its limit by
    annotation, or by the environment variable KMEM_HARNESS_LIMIT; without, it is the engine's own.
    """


def _installation_options(command: Any) -> Any:
    for option in (
        click.option("--engine", type=click.Choice(ENGINES), required=True, help="Whose runtime."),
        click.option(
            "--into",
            metavar="DIR",
            type=_PATH,
            default=Path("/usr/local/lib/kmem-harness"),
            show_default=True,
            help="Where the wrapper goes.",
        ),
        click.option(
            "--config",
            metavar="FILE",
            type=_PATH,
            help="The engine's configuration (default: /etc/docker/daemon.json, or a file of our own in "
            "/etc/containers/containers.conf.d).",
        ),
    ):
        command = option(command)
    return command


@runtime.command("install")
@_installation_options
@click.option(
    "--runtime", "real", metavar="PATH", help="The runtime behind it (default: runc, crun)."
)
@_socket_option
@click.option("--default", "as_default", is_flag=True, help="Have every container run by it.")
def runtime_install(
    *,
    engine: str,
    into: Path,
    config: Path | None,
    real: str | None,
    path: Path | None,
    as_default: bool,
) -> None:
    """Install it, and say what to restart. Docker's own file is kept as FILE.before-kmem-harness."""
    where = Installation.of(
        engine, into, config, real, path or default_socket(), as_default=as_default
    )
    click.echo(install(where))


@runtime.command("uninstall")
@_installation_options
def runtime_uninstall(*, engine: str, into: Path, config: Path | None) -> None:
    """Take it out again."""
    click.echo(uninstall(Installation.of(engine, into, config, None, default_socket())))
