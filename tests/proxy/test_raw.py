"""What goes over one connection: to the last byte what goes over it without the proxy."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.conftest import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine
    from tests.support.proxied import Proxied

LIMIT = "io.github.kmem-harness.limit"


def connect(host: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(host.removeprefix("unix://"))
    return connection


def ask(host: str, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send *pieces* one by one, and read to the end."""
    with connect(host) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.02)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        said = b""
        while more := connection.recv(65536):
            said += more
        return said


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: docker", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def without_dates(said: bytes) -> bytes:
    return re.sub(rb"Date: [^\r]*", b"Date: -", said)


CLOSE = "Connection: close"


@pytest.mark.parametrize(
    "pieces",
    [
        [request("GET", "/_ping", b"", CLOSE)],
        [request("HEAD", "/_ping", b"", CLOSE)],
        [request("GET", "/v1.41/containers/no-such/json", b"", CLOSE)],
        [request("GET", "/no/such/thing", b"", CLOSE)],
        [request("POST", "/containers/no-such/start", b"", CLOSE)],
        [request("DELETE", "/v1.41/containers/no-such?force=1", b"", CLOSE)],
        [request("POST", "/containers/no-such/attach?stream=1", b"", CLOSE)],
        [request("POST", "/v1.41/exec/no-such/start", b'{"Detach":false}', CLOSE)],
        [request("GET", "/version"), request("GET", "/_ping", b"", CLOSE)],
        [request("GET", "/_ping") * 5 + request("GET", "/_ping", b"", CLOSE)],
        [b"GET /_pi", b"ng HTTP/1.1\r\nHo", b"st: docker\r\nConnection: close\r\n", b"\r\n"],
        [b"GET /_ping HTTP/1.0\r\n\r\n"],
    ],
    ids=lambda pieces: pieces[0][:40].decode().replace("\r\n", " "),
)
def test_answer_when_it_is_no_concern_of_ours_then_is_the_same_to_the_byte(
    proxy: Proxied, engine: Engine, pieces: list[bytes]
) -> None:
    direct, through = (without_dates(ask(host, *pieces)) for host in (engine.host, proxy.host))
    assert through == direct
    assert through.startswith(b"HTTP/1.")


@pytest.fixture
def created(engine: Engine) -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        engine.client.api.remove_container(name, force=True)


def config(image: str, *command: str, **more: Any) -> dict[str, Any]:
    host = {"NetworkMode": "none", "PidsLimit": OPTIONS["pids_limit"]}
    return {"Image": image, "Cmd": list(command), "HostConfig": host, **more}


def body_of(said: bytes) -> dict[str, Any]:
    head, _, body = said.rpartition(b"\r\n\r\n")
    found: dict[str, Any] = json.loads(body or b"{}")
    return {**found, "status": int(head.rpartition(b"HTTP/1.1 ")[2].split()[0])}


@pytest.mark.parametrize("form", ["whole", "chunked", "awaited", "encoded", "doubled"])
def test_create_when_said_in_any_way_then_is_limited(
    proxy: Proxied, engine: Engine, image: str, created: list[str], form: str
) -> None:
    body = json.dumps(config(image, "sleep", "60", Labels={LIMIT: "160k"})).encode()
    path = {"encoded": "/v1.41/containers/%63reate", "doubled": "//containers/create"}.get(
        form, "/containers/create"
    )
    pieces = [request("POST", path, body, CLOSE)]
    head = request("POST", path, b"", CLOSE, "Content-Type: application/json")
    if form == "chunked":
        parts = [body[at : at + 7] for at in range(0, len(body), 7)]
        chunks = [f"{len(one):x}\r\n".encode() + one + b"\r\n" for one in parts] + [b"0\r\n\r\n"]
        pieces = [head[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", b"".join(chunks)]
    if form == "awaited":
        length = f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
        pieces = [head[:-2] + length, body]
    said = ask(proxy.host, *pieces)
    if form == "awaited":
        assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    made = body_of(said)
    if made["status"] == 301:  # the engine's own word about such a path
        return
    created.append(made["Id"])
    found = engine.client.api.inspect_container(made["Id"])
    assert found["Config"]["Labels"]["io.github.kmem-harness.memcg"].startswith("/docker/")


@pytest.mark.parametrize(
    ("labels", "host", "named"),
    [
        ({LIMIT: "8 apples"}, {}, "8 apples"),
        ({LIMIT: "1m", LIMIT.replace("limit", "kinds"): "tusk"}, {}, "tusk"),
        ({LIMIT: "1m", LIMIT.replace("limit", "mode"): "hard"}, {}, "hard"),
        ({LIMIT: "1m", LIMIT.replace("limit", "inject"): "nonsense"}, {}, "nonsense"),
        ({LIMIT: "1m", LIMIT.replace("limit", "memcg"): "web"}, {}, "'web'"),
        ({}, {"Annotations": {LIMIT: "1k"}}, "below one page"),
        ({}, {"KernelMemory": "8m"}, "no number of bytes"),
        ({}, {"KernelMemory": 100}, "below one page"),
        ({LIMIT: "1m"}, {"PidMode": "host"}, "pid namespace of its own"),
    ],
)
def test_create_when_terms_mean_nothing_then_is_refused_in_the_engines_shape(
    proxy: Proxied, engine: Engine, image: str, labels: dict[str, str], host: Any, named: str
) -> None:
    before = {
        one["Id"] for one in engine.client.api.containers(all=True, filters={"ancestor": image})
    }
    asked = config(image, "true", Labels=labels)
    asked["HostConfig"] |= host
    body = json.dumps(asked).encode()
    said = body_of(ask(proxy.host, request("POST", "/containers/create", body, CLOSE)))
    assert said["status"] == 400
    assert said["message"].startswith("kmem-harness: ")
    assert named in said["message"]
    assert {
        one["Id"] for one in engine.client.api.containers(all=True, filters={"ancestor": image})
    } <= before | {""}


def test_libpod_create_when_it_asks_for_a_limit_then_is_refused_and_not_dropped(
    proxy: Proxied,
) -> None:
    for spec in ({"labels": {LIMIT: "1m"}}, {"resource_limits": {"memory": {"kernel": 1 << 20}}}):
        body = json.dumps(spec).encode()
        path = "/v4.0.0/libpod/containers/create"
        said = body_of(ask(proxy.host, request("POST", path, body, CLOSE)))
        assert said["status"] == 400
        assert "podman run --security-opt" in said["message"]


@pytest.mark.parametrize("early", [False, True])
def test_attach_when_half_of_it_is_closed_then_the_other_half_goes_on(
    proxy: Proxied, engine: Engine, image: str, created: list[str], *, early: bool
) -> None:
    """Input, its end, and then the output; some of it before the engine has answered."""
    outputs = []
    for host, labels in ((engine.host, {}), (proxy.host, {}), (proxy.host, {LIMIT: "1m"})):
        asked = config(image, "sh", "-c", "cat; echo over", OpenStdin=True, StdinOnce=True)
        asked |= {"AttachStdin": True, "AttachStdout": True, "Labels": labels}
        body = json.dumps(asked).encode()
        made = body_of(ask(host, request("POST", "/containers/create", body, CLOSE)))["Id"]
        created.append(made)
        path = f"/containers/{made}/attach?stream=1&stdin=1&stdout=1"
        upgrade = request("POST", path, b"", "Connection: Upgrade", "Upgrade: tcp")
        with connect(host) as stream:
            stream.sendall(upgrade + (b"early\n" if early else b""))
            head = b""
            while b"\r\n\r\n" not in head:
                head += stream.recv(1)
            assert b" 101 " in head
            ask(host, request("POST", f"/containers/{made}/start", b"", CLOSE))
            stream.sendall(b"late\n")
            stream.shutdown(socket.SHUT_WR)
            said = b""
            while more := stream.recv(65536):
                said += more
        output = b""
        while said:  # the engine's frames: kind, length, text
            length = int.from_bytes(said[4:8], "big")
            output, said = output + said[8 : 8 + length], said[8 + length :]
        outputs.append(output)
    # The engine alone may lose what comes before its answer; the proxy keeps that until then.
    assert outputs[0].endswith(b"late\nover\n")
    assert outputs[1] == outputs[2] == (b"early\n" if early else b"") + b"late\nover\n"


def test_clients_when_there_are_two_hundred_then_each_is_answered(proxy: Proxied) -> None:
    silent = [connect(proxy.host) for _ in range(50)]
    for one in silent[:25]:
        one.sendall(b"GET /_ping HTTP/1.1\r\n")  # and no more
    with ThreadPoolExecutor(50) as pool:
        said = list(
            pool.map(lambda _: ask(proxy.host, request("GET", "/_ping", b"", CLOSE)), range(200))
        )
    assert all(one.startswith(b"HTTP/1.1 200") for one in said)
    for one in silent:
        one.close()


def test_stream_when_its_reader_is_slow_or_gone_then_nothing_grows(
    proxy: Proxied, engine: Engine, image: str, created: list[str]
) -> None:
    made = engine.client.containers.create(
        image,
        ["sh", "-c", "while echo 0123456789012345678901234567890123456789; do :; done"],
        **OPTIONS,
    )
    created.append(made.id)
    made.start()
    before = _resident(proxy.process.pid)
    slow = connect(proxy.host)
    slow.sendall(request("GET", f"/containers/{made.id}/logs?follow=1&stdout=1"))
    time.sleep(1.5)
    slow.close()
    made.kill()
    assert _resident(proxy.process.pid) - before < 16 << 20


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_bytes_when_odd_then_are_refused_and_nothing_stays(proxy: Proxied) -> None:
    """What the fuzzers find at length, in short."""
    odd = [
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        request("POST", "/containers/create", b"[" * 100_000, CLOSE),
        request("POST", "/containers/create", b"[]", CLOSE),
        request("POST", "/containers/create", b'{"HostConfig": 7, "Labels": 8}', CLOSE),
        os.urandom(5000),
    ]
    for body in odd * 3:
        try:
            said = ask(proxy.host, body, half_close=True)
        except ConnectionError:
            continue
        # The engine itself has its own words for some.
        assert not said or said.startswith(b"HTTP/1.1 4") or b"kmem" not in said, said[:200]
        assert not said.startswith(b"HTTP/1.1 2")
    deadline = time.monotonic() + 20
    while threads_of(proxy.process.pid) > 8 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert threads_of(proxy.process.pid) <= 8


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
