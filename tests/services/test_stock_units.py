"""Debian's own units, as they are installed and unchanged, start and serve as root: ports below 1024 and all."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_SECONDS = 20.0
#: A query for the address of localhost, and the first bytes of an answer to it.
_QUERY = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x09localhost\x00\x00\x01\x00\x01"


def http(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(64).startswith(b"HTTP/1.")


def dns(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(1)
        connection.connect(("127.0.0.1", port))
        connection.send(_QUERY)
        return connection.recv(512).startswith(_QUERY[:2])


def chrony(_: int) -> bool:
    done = subprocess.run(["chronyc", "-n", "tracking"], capture_output=True, check=False)
    return b"Stratum" in done.stdout


#: Unit: its program, its port, the kind of that, and what asks it for something.
UNITS = {
    "nginx": ("/usr/sbin/nginx", 80, socket.SOCK_STREAM, http),
    "lighttpd": ("/usr/sbin/lighttpd", 80, socket.SOCK_STREAM, http),
    "unbound": ("/usr/sbin/unbound", 53, socket.SOCK_DGRAM, dns),
    "chrony": ("/usr/sbin/chronyd", 323, socket.SOCK_DGRAM, chrony),
}


def is_taken(port: int, kind: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="stock units are root's to start")
@pytest.mark.parametrize("unit", UNITS)
def test_stock_unit_when_run_as_root_then_starts_and_serves(unit: str) -> None:
    program, port, kind, asks = UNITS[unit]
    if shutil.which(program) is None or not Path(f"/lib/systemd/system/{unit}.service").exists():
        pytest.skip(f"{unit} is not installed")
    if is_taken(port, kind):
        pytest.skip(f"port {port} is somebody else's")
    command = [sys.executable, "-m", "kmem_harness", "services", "run", f"{unit}.service"]
    command += ["--plain", "-p", f"{unit}.service:X-KmemMax=64M"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        served = await_service(lambda: asks(port), process)
        process.terminate()
        said, _ = process.communicate(timeout=_PATIENCE_SECONDS)
    assert served, said
    last = said.splitlines()[-1].split()
    assert last[:2] == [f"{unit}.service", "dead"], said
    assert last[-2:] == ["0", "1"], said  # nothing refused, started once


def await_service(serves: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            if serves():
                return True
        time.sleep(0.05)
    return False
