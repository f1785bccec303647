"""docker's own command line: through the proxy the same output, status and files as without."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engine import cannot_run
from tests.support.peak import until
from tests.support.proxied import proxied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine
    from tests.support.proxied import Proxied

LIMIT = "io.github.kmem-harness.limit"
#: 160 kB of stacks in the profile v4.
LIMITED = ["--label", f"{LIMIT}=160k"]
FORKS = "i=0; while [ $i -lt 60 ]; do sleep 1 & i=$((i+1)); done; echo made $i"


@dataclass
class Said:
    """What one command said."""

    status: int
    output: str
    errors: str


Docker = "Callable[..., Said]"


@pytest.fixture(scope="module")
def cli() -> str:
    """Find docker's command line."""
    found = shutil.which("docker")
    if found is None:
        cannot_run("docker's command line is missing: install docker-cli (or docker.io)")
    return found


def run(cli: str, host: str, words: list[str], cwd: Path, stdin: str | None = None) -> Said:
    outcome = subprocess.run(
        [cli, *words],
        cwd=cwd,
        env={**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(cwd / "config")},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Said(outcome.returncode, outcome.stdout, outcome.stderr)


def alike(text: str) -> str:
    """Take out what differs from one run to the next."""
    text = re.sub(r"[0-9a-f]{64}|sha256:[0-9a-f]+|\b[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+Z?( [+-]\d{4} \w+)?", "TIME", text)
    text = re.sub(
        r"(\d+(\.\d+)?|Less than a|About an?) ?(second|minute|ms|s|kB|MB|B|MiB|%)s?\b", "N", text
    )
    text = re.sub(r"\b\d{4,}\b|pid\W+\d+", "N", text)
    return re.sub(r"through|direct", "NAME", text)


#: Each as a person would type them, one after another; {n} is a container's name.
COMMANDS = [
    "version --format {{{{.Server.Version}}}}",
    "create --name {n} --network none -i {image} sh -c 'cat; echo out; echo err >&2; exit 3'",
    "ps -a --no-trunc --filter name={n} --format {{{{.Names}}}}:{{{{.Command}}}}:{{{{.Status}}}}",
    "inspect {n} --format {{{{.State.Status}}}}:{{{{.Config.Cmd}}}}:{{{{.Path}}}}",
    "start -ai {n} < from standard input",
    "wait {n}",
    "logs {n}",
    "logs --tail 9 {n}",
    "logs -f {n}",
    "rename {n} {n}-2",
    "inspect {n} --type container",
    "rename {n}-2 {n}",
    "diff {n}",
    "cp {file} {n}:/copied",
    "cp {n}:/copied -",
    "export {n} -o {out}",
    "commit {n} {n}:made",
    "history {n}:made --format {{{{.Size}}}}",
    "images {n} --format {{{{.Repository}}}}:{{{{.Tag}}}}",
    "tag {n}:made {n}:other",
    "save {n}:made -o {out}",
    "load -i {out}",
    "rmi {n}:made {n}:other",
    "rm {n}",
    "rm {n}",
    "run --name {n} --network none -d {image} sleep 60",
    "exec {n} sh -c 'echo in; echo err >&2; exit 4'",
    "exec -i {n} cat < piped",
    "exec {n} no-such-command",
    "exec -u 1000 -e A=b -w /bin {n} sh -c 'echo $A; id -u; echo $PWD'",
    "top {n} -o comm",
    "stats --no-stream --format {{{{.Name}}}} {n}",
    "port {n}",
    "pause {n}",
    "unpause {n}",
    "update --pids-limit 100 {n}",
    "restart -t 0 {n}",
    "kill -s TERM {n}",
    "stop -t 0 {n}",
    "start {n}",
    "rm -f {n}",
    "run --rm --network none {image} sh -c 'exit 7'",
    "run --rm --network none --read-only --user 1000 --cap-drop ALL {image} id -u",
    "run --rm --network none --init {image} echo under init",
    "run --rm --network none -i {image} cat < a line",
    "run --rm --network none -t {image} echo tty",
    "run --rm --network none {image} no-such-command",
    "run --rm --network none no-such-image:1 true",
    "build -q -t {n}:built {context}",
    "run --rm --network none {n}:built",
    "rmi {n}:built",
    "events --since 1s --until 0s --filter container=no-such-one",
    "info --format {{{{.Driver}}}}",
    "network ls --format {{{{.Name}}}}",
    "volume create {n}-volume",
    "volume rm {n}-volume",
]


#: The heart of it: what the proxy has most to do with.
HEART = [
    one
    for one in COMMANDS
    if one.split()[0] in ("create", "start", "logs", "exec", "restart", "rm")
]


@pytest.mark.parametrize(
    "commands", [HEART, pytest.param(COMMANDS, marks=pytest.mark.slow)], ids=["heart", "all"]
)
def test_commands_when_through_the_proxy_then_do_and_say_the_same(
    cli: str, proxy: Proxied, engine: Engine, image: str, tmp_path: Path, commands: list[str]
) -> None:
    """All of them, in two rows: the second of what a person does, and sees, is the first."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f'FROM {image}\nCOPY file /file\nCMD ["cat", "/file"]\n')
    (context / "file").write_text("built\n")
    rows: dict[str, list[tuple[str, Said]]] = {}
    for name, host in (("direct", engine.host), ("through", proxy.host)):
        rows[name] = []
        for command in commands:
            text, arrow, stdin = command.format(
                n=f"kmem-cli-{name}-{os.getpid()}",
                image=image,
                file=context / "file",
                out=tmp_path / "out",
                context=context,
            ).partition(" < ")
            words = [
                word[1:-1] if word[0] == "'" else word for word in re.findall(r"'[^']*'|\S+", text)
            ]
            said = run(cli, host, words, tmp_path, f"{stdin}\n" if arrow else None)
            rows[name].append((command, said))
    for (command, direct), (_, through) in zip(rows["direct"], rows["through"], strict=True):
        assert through.status == direct.status, (command, direct, through)
        for before, after in ((direct.output, through.output), (direct.errors, through.errors)):
            assert alike(after) == alike(before), command


@pytest.fixture
def docker(cli: str, proxy: Proxied, tmp_path: Path) -> Iterator[Callable[..., Said]]:
    """Type a command, through the proxy."""
    names: list[str] = []

    def one(*words: str, stdin: str | None = None) -> Said:
        if "--name" in words:
            names.append(words[words.index("--name") + 1])
        return run(cli, proxy.host, list(words), tmp_path, stdin)

    yield one
    for name in names:
        one("rm", "-f", name)


@pytest.mark.parametrize("terms", [LIMITED, ["--annotation", f"{LIMIT}=160k"]])
def test_run_when_limited_by_a_label_or_annotation_then_the_bomb_is_contained(
    docker: Callable[..., Said], image: str, terms: list[str]
) -> None:
    said = docker("run", "--rm", "--network", "none", *terms, image, "sh", "-c", FORKS)
    if terms[0] == "--annotation" and "API" in said.errors:
        pytest.skip(said.errors)  # an engine before 24
    assert "can't fork" in said.errors, said
    assert "made 60" not in said.output


def test_run_when_limited_by_the_flag_of_old_or_by_default_then_the_bomb_is_contained(
    cli: str, engine: Engine, image: str, tmp_path: Path
) -> None:
    """A current command line drops the flag in silence, unless the engine seems to be an old one."""
    directory = Path(tempfile.mkdtemp(prefix="kmem-proxy-"))
    with proxied(directory, engine.host, "--default", "160k") as one:
        for flags in (["--kernel-memory", "160k"], ["--kernel-memory", "240k"], []):
            words = ["run", "--rm", "--network", "none", *flags, image, "sh", "-c", FORKS]
            said = run(cli, one.host, words, tmp_path)
            assert "can't fork" in said.errors, said
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "options",
    [
        ["--read-only", "--user", "1000", "--cap-drop", "ALL"],
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in ([], ["--init"], ["--security-opt", "no-new-privileges"])
        ),
    ],
    ids=lambda options: options[0] if options else "plain",
)
def test_exec_when_limited_then_counts(
    docker: Callable[..., Said], image: str, options: list[str]
) -> None:
    name = f"kmem-cli-{os.getpid()}"
    assert (
        docker(
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            *LIMITED,
            *options,
            image,
            "sleep",
            "60",
        ).status
        == 0
    )
    said = docker("exec", name, "sh", "-c", FORKS)
    assert "can't fork" in said.errors, said
    assert docker("stop", "-t", "0", name).status == 0
    assert docker("start", name).status == 0
    assert "can't fork" in docker("exec", name, "sh", "-c", FORKS).errors
    assert docker("rm", "-f", name).status == 0


def test_healthcheck_and_restart_policy_when_limited_then_go_on(
    docker: Callable[..., Said], image: str
) -> None:
    name = f"kmem-cli-{os.getpid()}"
    health = ["--health-cmd", "true", "--health-interval", "1s"]
    docker(
        "run", "-d", "--name", name, "--network", "none", *LIMITED, *health, image, "sleep", "60"
    )

    def is_healthy() -> bool:
        said = docker("inspect", "-f", "{{.State.Health.Status}}", name)
        return said.output.strip() == "healthy"

    until(is_healthy, 30, "its health check never passed")
