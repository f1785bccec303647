"""Controllers for clients elsewhere, without an engine: who listens, who comes in, what is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.controller.door.protocol import FRAME
from tests.support.peak import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "kmem_harness", "controller"]


class Client:
    """What an exec in the controller's container is: messages over standard input and output."""

    def __init__(self, path: Path) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([*COMMAND, "--connect", str(path)], cwd=ROOT, **pipes)

    def ask(self, **message: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        body = json.dumps(message).encode()
        self.process.stdin.write(FRAME.pack(len(body)) + body)
        self.process.stdin.flush()
        (length,) = FRAME.unpack(self.process.stdout.read(FRAME.size))
        return dict(json.loads(self.process.stdout.read(length)))

    def close(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def path() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="kmem-listen-"))  # short: it is a socket's
    yield directory / "listen.sock"
    shutil.rmtree(directory)


def listen(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*COMMAND, "--listen", str(path)], cwd=ROOT, stderr=subprocess.PIPE)
    until(lambda: path.exists() or process.poll() is not None, 20, "nobody listens")
    return process


def test_listen_then_each_client_has_a_session_that_ends_with_it(path: Path) -> None:
    listening = listen(path)
    first, second = Client(path), Client(path)
    facts = [client.ask(kernel=kernel) for client, kernel in ((first, "v4"), (second, "5.10"))]
    assert facts[0]["directory"] != facts[1]["directory"]
    assert os.access(facts[0]["shim"], os.X_OK)
    assert [client.ask(op="hello", serial=1)["kernel"] for client in (first, second)] == [
        "v4",
        "5.10",
    ]
    first.ask(op="make", path="/here")
    assert second.ask(op="children", path="/")["names"] == []
    first.close()
    until(lambda: not Path(facts[0]["directory"]).exists(), 20, "the session is left")
    assert second.ask(op="hello")["ok"]
    listening.terminate()
    assert listening.wait(timeout=20) == 0
    second.process.wait(timeout=20)
    assert list(path.parent.iterdir()) == []


def test_listen_when_a_client_asks_for_nonsense_then_is_told_and_others_are_served(
    path: Path,
) -> None:
    listening = listen(path)
    for message in ({"kernel": "4.4"}, {}):
        client = Client(path)
        assert client.ask(**message)["error"]["type"] == "ConfigurationError"
        client.close()
    client = Client(path)
    assert client.ask(kernel="v4")["ok"]
    client.close()
    listening.terminate()
    assert listening.wait(timeout=20) == 0


def test_listen_when_one_was_killed_then_sweeps_what_that_left_and_nothing_else(path: Path) -> None:
    somebody_elses = path.parent / "kmem-harness-0-1-2"
    somebody_elses.mkdir()
    listening = listen(path)
    left = path.parent / f"{path.name}.0123abcd"
    left.mkdir()
    listening.kill()
    listening.wait()
    path.rename(path.with_name("old"))  # so that the next one can be waited for
    again = listen(path)
    assert not left.exists()
    assert somebody_elses.exists()
    refused = subprocess.run(
        [*COMMAND, "--listen", str(path)], cwd=ROOT, capture_output=True, timeout=20, check=False
    )
    assert refused.returncode == 125
    assert b"listens there already" in refused.stderr
    again.terminate()
    assert again.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        ([], 2, b"usage"),
        (["--serve"], 2, b"usage"),
        (["--listen", "a", "b", "c"], 2, b"usage"),
        (["--listen", "/no/such/directory/listen.sock"], 125, b"-v /no/such/directory"),
        (["--connect", "/no/such/listen.sock"], 125, b"No such file"),
    ],
    ids=str,
)
def test_controller_when_told_nonsense_then_says_what_it_wants(
    words: list[str], status: int, named: bytes
) -> None:
    ended = subprocess.run(
        [*COMMAND, *words], cwd=ROOT, capture_output=True, timeout=20, check=False
    )
    assert ended.returncode == status
    assert named in ended.stderr
