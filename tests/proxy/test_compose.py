"""The example of ``containers/compose``: a fork bomb beside two calm services, through the proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engine import cannot_run
from tests.support.peak import until
from tests.support.proxied import Proxied, proxied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine

_EXAMPLE = Path(__file__).parents[2] / "containers" / "compose" / "compose.yaml"


@pytest.fixture
def compose() -> list[str]:
    """Find docker compose, of either kind."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            found = subprocess.run([*words, "version"], capture_output=True, check=False)
            if found.returncode == 0:
                break
    else:
        cannot_run("docker compose is missing: install docker-compose")
    return words


@pytest.fixture
def through(engine: Engine) -> Iterator[Proxied]:
    if os.geteuid() != 0:
        pytest.skip("only root may count the tasks of a root engine's containers")
    directory = Path(tempfile.mkdtemp(prefix="kmem-proxy-"))
    with proxied(directory, engine.host, "--memcg", "/shop.slice=2M") as one:
        yield one
    shutil.rmtree(directory)


@pytest.fixture
def run(
    compose: list[str], through: Proxied, image: str, tmp_path: Path
) -> Iterator[Callable[..., str]]:
    """Run it on the example as it is."""
    shutil.copy(_EXAMPLE, tmp_path / "docker-compose.yaml")
    environment = {**os.environ, "DOCKER_HOST": through.host, "KMEM_IMAGE": image}

    def one(*words: str) -> str:
        outcome = subprocess.run(
            [*compose, "-p", f"kmemshop{os.getpid()}", *words],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    yield one
    one("down", "-t", "0")


def test_stack_when_one_of_it_is_a_bomb_then_the_others_go_on(
    run: Callable[..., str], through: Proxied, engine: Engine
) -> None:
    run("up", "-d")
    ids = run("ps", "-q").split()
    assert len(ids) == 3
    refused = [None]

    def bomb_was_refused() -> bool:
        refused[:] = [one for one in through.events() if one["event"] == "call.refused"]
        return bool(refused)

    until(bomb_was_refused, 30, "the bomb met no limit")
    (first,) = refused[:1]
    assert first is not None
    assert first["refused_by"].startswith("/shop.slice/")
    run("up", "-d")
    assert run("ps", "-q").split() == ids  # and none was made anew
    for ident in ids:
        assert engine.client.api.inspect_container(ident)["State"]["Running"]
    run("restart", "-t", "0", "web")
    assert run("ps", "-q").split() == ids
