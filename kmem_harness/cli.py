"""The command line. Each command imports what it needs when it runs: ``--help`` stays quick."""

from __future__ import annotations

import errno
import json
import sys
from contextlib import contextmanager
from importlib import import_module
from stat import filemode
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import click

from kmem_harness.core.errors import ConfigurationError, KmemHarnessError
from kmem_harness.core.releases import DEFAULT_PROFILE
from kmem_harness.demos.scenarios import SCENARIOS
from kmem_harness.logged import show_as_environment_asks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["cli", "main"]

EXIT_OWN_FAILURE = 125
_EPILOG = "Sizes: 4096, 8k, 8M, 8MiB, 1G; -1 or max for none."


class _LazyGroup(click.Group):
    """Commands that live in a room of their own are imported when they are asked for."""

    _ELSEWHERE: ClassVar = {
        "calibrate": "kmem_harness.calibrate.command",
        "experiment": "kmem_harness.experiments.command",
        "profile": "kmem_harness.serve.command",
        "proxy": "kmem_harness.proxy.command",
        "replay": "kmem_harness.replay.command",
        "report": "kmem_harness.serve.command",
        "runtime": "kmem_harness.serve.command",
        "serve": "kmem_harness.serve.command",
        "services": "kmem_harness.services.door.command",
        "top": "kmem_harness.top.command",
        "sweep": "kmem_harness.experiments.sweep_command",
        "what-if": "kmem_harness.experiments.what_if_command",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        home = self._ELSEWHERE.get(cmd_name)
        if home is None:
            found = super().get_command(ctx, cmd_name)
            return None if found is None else _logging(found)
        command: click.Command = getattr(import_module(home), cmd_name.replace("-", "_"))
        return _logging(command)


def _logging(command: click.Command) -> click.Command:
    """Give a command the options that say what is logged, unless it has its own."""
    if not any(one.name == "log_level" for one in command.params):
        command.params += _log_options()
    return command


def _log_options() -> list[click.Parameter]:
    def show(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        asked = ctx.meta.setdefault("kmem_harness.log", {})
        if value:
            asked[parameter.name] = value
            from kmem_harness.logs import show_logs

            show_logs(asked.get("log_level", "info"), as_json="log_json" in asked)
        return value

    return [
        click.Option(
            ["--log-level"],
            type=click.Choice(["debug", "info", "warning", "error"]),
            expose_value=False,
            callback=show,
            help="Log this and what is worse to standard error (default: nothing; also "
            "KMEM_HARNESS_LOG=LEVEL[,json]).",
        ),
        click.Option(
            ["--log-json"],
            is_flag=True,
            expose_value=False,
            callback=show,
            help="Log one JSON object a line.",
        ),
    ]


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="kmem-harness", prog_name="kmem-harness")
def cli() -> None:
    """Give kernel-memory limits back to containers under test.

    A box's fork, clone and their like are charged to an emulated kmem memcg, and fail with ENOMEM
    where its limit says so. A test instrument, not a security boundary.
    """


@cli.command(
    epilog=_EPILOG,
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.option("--kmem-limit", metavar="SIZE", help="Limit of the box's kernel memory.")
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Limit of kernel and user memory together; what does not fit is killed.",
)
@click.option(
    "--kernel",
    metavar="PROFILE",
    default=DEFAULT_PROFILE,
    show_default=True,
    help="Kernel to emulate: v4, 3.8, 3.12 or 5.10.",
)
@click.option("--costs", metavar="FILE.toml", help="Cost table to use instead of the profile's.")
@click.option(
    "--runtime",
    type=click.Choice(["local", "docker"]),
    help="Where to run it (default: docker with --image, else local).",
)
@click.option("--image", metavar="REF", help="Image to run, whose own command is the default.")
@click.option(
    "--docker-listener",
    type=click.Choice(["auto", "shim", "native"]),
    default="auto",
    help="Who filters a container: our shim, the engine's runtime, or that where it has no drawback.",
)
@click.option(
    "--controller",
    metavar="docker://NAME",
    envvar="KMEM_HARNESS_CONTROLLER",
    help="Controller in container NAME, on the host of an engine that is elsewhere.",
)
@click.option("--memcg", metavar="PATH", help="Memcg to run in, such as /web.slice/a.")
@click.option(
    "--kinds", metavar="KIND,...", help="Charge these kinds of objects alone, such as task,file."
)
@click.option("--observe", is_flag=True, help="Charge and count, but refuse nothing.")
@click.option(
    "--inject",
    metavar="RULE",
    multiple=True,
    help="Fail or delay calls, such as socket:error=ENOMEM:when=3; may be given more than once.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="End the box after S seconds.",
)
@click.option(
    "--pids-max",
    type=click.IntRange(min=3),
    metavar="N",
    help="Second, hard bound on tasks, enforced by the kernel itself.",
)
@click.option(
    "--isolation",
    type=click.Choice(["user", "pid", "none"]),
    help="Namespaces for the box (default: the best this host allows).",
)
@click.option("--report", metavar="FILE", help="Write the report there: FILE.json, or FILE.html.")
@click.option("--events", metavar="FILE.jsonl", help="Write every refusal there, one a line.")
@click.option(
    "--events-all", is_flag=True, help="Write every charge to --events, too, for what-if."
)
@click.option("--quiet", is_flag=True, help="Leave out the summary line on standard error.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(command: tuple[str, ...], **options: Any) -> NoReturn:
    """Run COMMAND in a box, under an emulated kernel-memory limit.

    Exits with COMMAND's status (128+N after signal N); 123 if that is 0 and a rule of --inject never
    fired; 125 if the harness itself failed, 126 or 127 if COMMAND cannot be executed or found. COMMAND's own input and output are left alone.

    \b
    kmem-harness run --kmem-limit 8M -- sh -c 'for i in 1 2 3; do sleep 1 & done; wait'
    """  # noqa: D301 - click's own mark for a line to keep
    from kmem_harness.run_command import RunOptions, run_command

    if not command and not options["image"]:
        raise click.UsageError("Missing argument 'COMMAND...'.")
    sys.exit(run_command(command, RunOptions(**options)))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(*, as_json: bool) -> NoReturn:
    """Run what a box runs, and say what is missing here and what to do.

    Exits with 0 if all that boxes need is here, with 1 if limits hold and something is less exact or
    less apart, which is said, and with 2 if no limit can be enforced.
    """
    from kmem_harness.doctor import examine
    from kmem_harness.doctor.show import print_diagnosis

    diagnosis = examine()
    if as_json:
        click.echo(json.dumps(diagnosis.as_dict(), indent=2))
    else:
        print_diagnosis(diagnosis)
    sys.exit(diagnosis.verdict)


@cli.command(epilog=_EPILOG)
@click.argument("name", type=click.Choice(list(SCENARIOS)))
@click.option(
    "--kmem-limit", metavar="SIZE", help="Limit of what misbehaves (default: the demo's)."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 60),
    default=4.0,
    show_default=True,
    help="How long each of the two runs may last.",
)
@click.option(
    "--kernel",
    metavar="PROFILE",
    default=DEFAULT_PROFILE,
    show_default=True,
    help="Kernel to emulate.",
)
@click.option(
    "--runtime",
    type=click.Choice(["local", "docker"]),
    default="local",
    show_default=True,
    help="Where to run it: here, or in containers of the engine at $DOCKER_HOST, of an image "
    "that is made for it and removed again.",
)
@click.option(
    "--picture", metavar="FILE.svg", help="Draw what the terminal shows at the end there."
)
def demo(
    name: str,
    kmem_limit: str | None,
    seconds: float,
    kernel: str,
    runtime: str,
    picture: str | None,
) -> NoReturn:
    """Show a program that misbehaves beside a neighbour that measures its own latency.

    First without a limit, inside a hard bound of the kernel's; then under a kmem limit.
    """
    from kmem_harness.demos.show import show
    from kmem_harness.sigterm import ending_on_sigterm

    with ending_on_sigterm():
        sys.exit(
            show(
                name,
                kmem_limit=kmem_limit,
                seconds=seconds,
                kernel=kernel,
                picture=picture,
                runtime=runtime,
            )
        )


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def controller(words: tuple[str, ...]) -> NoReturn:
    """Hold boxes for clients elsewhere, on the host of their engine: --listen [SOCKET [ENGINE]].

    Runs in a container there (containers/controller), with the host's pids. Clients come in through
    the engine, with an exec of --connect [SOCKET].
    """
    from kmem_harness.controller.door.remote import main as serve

    sys.exit(serve(list(words)))


@cli.command()
@click.argument("path")
@click.argument("file", required=False)
def read(path: str, file: str | None) -> None:
    """Read control file FILE of memcg PATH on a running harness of yours.

    PATH/FILE in one word will do as well.
    """
    if file is None:
        path, file = _split(path)
    with _connected() as connection, _naming(f"{path.rstrip('/')}/{file}"):
        click.echo(connection.read(path, file))


# A value may well begin with a dash: "-1" lifts a limit.
@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("path")
@click.argument("file")
@click.argument("value", required=False)
def write(path: str, file: str, value: str | None) -> None:
    """Write VALUE to control file FILE of memcg PATH on a running harness of yours.

    PATH/FILE in one word will do as well.
    """
    if value is None:
        (path, file), value = _split(path), file
    with _connected() as connection, _naming(f"{path.rstrip('/')}/{file}"):
        connection.write(path, file, value)


@cli.command()
@click.option("-l", "with_modes", is_flag=True, help="Show each entry's mode, as ls -l does.")
@click.argument("path", default="/")
def ls(path: str, *, with_modes: bool) -> None:
    """List memcg PATH on a running harness of yours."""
    with _connected() as connection, _naming(path):
        modes = connection.modes(path) if with_modes else {}
        for entry in connection.ls(path):
            click.echo(f"{filemode(modes[entry])} {entry}" if with_modes else entry)


def _split(path: str) -> tuple[str, str]:
    """Part the path of a control file into memcg and file."""
    memcg, slash, file = path.rpartition("/")
    if not slash or not file:
        message = f"no control file is named: {path!r}. Give PATH FILE, or PATH/FILE."
        raise click.UsageError(message)
    return memcg or "/", file


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put a path and the errno's name before what a cgroupfs would answer."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        name = errno.errorcode.get(error.errno, str(error.errno))
        message = f"{path}: {name}: {error.strerror}"
        raise OSError(message) from error


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; every error of ours is one line that says what to do."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    usage = EXIT_OWN_FAILURE if words[:1] == ["run"] else 2
    try:
        show_as_environment_asks()
        status = cli.main(words, prog_name="kmem-harness", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(usage)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigurationError as error:
        _complain(error)
        sys.exit(getattr(error, "exit_code", usage))
    except KmemHarnessError as error:
        _complain(error)
        sys.exit(EXIT_OWN_FAILURE)
    except OSError as error:
        _complain(error)
        sys.exit(EXIT_OWN_FAILURE if words[:1] == ["run"] else 1)
    sys.exit(status or 0)


def _complain(error: Exception) -> None:
    click.echo(f"kmem-harness: {error}", err=True)
    remedy = getattr(error, "remedy", "")
    if remedy:
        click.echo(f"kmem-harness: what to do: {remedy}", err=True)


def _connected() -> Any:
    from contextlib import closing

    from kmem_harness.controller.owner.client import connect_running

    return closing(connect_running())


_logging(cli)  # before the command's name, too

if __name__ == "__main__":
    main()
