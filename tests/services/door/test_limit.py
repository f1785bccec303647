"""``services limit``: the smallest limit under which a unit starts and serves, and what to do with it."""

from __future__ import annotations

import json
import sys

import pytest

from kmem_harness.cli import main
from kmem_harness.experiments.experiment_file import load

#: Answers on its port, with a child of its own.
SERVER = """
import os, socket, sys, time
if os.fork() == 0:
    time.sleep(600)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(b"here")
        connection.close()
"""
HEALTH = (
    f"{sys.executable} -c 'import socket; "
    'socket.create_connection(("127.0.0.1", {port}), 5).recv(4) == b"here" or exit(1)\''
)


@pytest.fixture
def unit(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "server.py").write_text(SERVER)
    path = tmp_path / "web.service"
    path.write_text(
        f"[Service]\nExecStart={sys.executable} {tmp_path}/server.py $PORT\nX-KmemKinds=task thread\n"
    )
    return path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["services", "limit", *arguments])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def test_limit_when_found_then_it_holds_and_one_page_less_does_not(tmp_path, unit, capsys):
    given = (
        "-p",
        "web:Environment=PORT={port}",
        "--repeats",
        "1",
        "--confirm",
        "2",
        "--health",
        HEALTH,
        "--json",
    )
    code, out, err = run(capsys, str(unit), *given)
    assert code == 0
    found = json.loads(out)
    # What an exec and a forked child take, and our own program's fork of it, to a page.
    assert found["limit"] % 4096 == 0
    assert found["below"]["limit"] == found["limit"] - 4096
    assert any("clone" in line or "fork" in line for line in found["below"]["refusals"])
    assert found["kinds"]["task"]["live"] >= 1
    assert found["drop_in"] == f"[Service]\nX-KmemMax={found['limit']}\n"
    assert "no limit: serves after" in err
    (tmp_path / "same.toml").write_text(found["experiment"])
    experiment = load(str(tmp_path / "same.toml"))
    assert experiment.vary.bisection.high >= found["limit"]
    assert experiment.boxes[0].properties["web.service"]["X-KmemMax"] == "{limit}"


def test_limit_when_the_unit_never_serves_then_it_says_what_was_wrong(unit, capsys):
    given = ("-p", "web:Environment=PORT={port}", "--within", "1")
    code, _, err = run(capsys, str(unit), *given, "--health", "echo no luck; exit 3")
    assert code == 2
    assert "does not serve even without a limit" in err
    assert "the health command exited with 3: no luck" in err
    code, _, err = run(capsys, str(unit), "--health", HEALTH)  # no port: it ends at once
    assert code == 2
    assert "ended with exit code 1" in err
