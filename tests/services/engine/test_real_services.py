"""Services of Debian, by their own unit files: started, asked something, stopped, under a kmem limit.

Each unit is the one its package ships. A drop-in of ours gives it paths and addresses that an
ordinary user can have, and a limit; where root runs the tests, ``User=`` is obeyed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.services.oracle import needs_programs

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS = Path(__file__).parents[1] / "units"


def ask(address: str | int, request: bytes, until: bytes) -> bytes:
    """Send a request to a unix socket or a port, and read up to a word of the answer."""
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(("127.0.0.1", address) if isinstance(address, int) else address)
        connection.sendall(request)
        answer = b""
        while until not in answer:
            chunk = connection.recv(4096)
            assert chunk, f"{until!r} never came: {answer!r}"
            answer += chunk
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Real:
    """A package's service: what of it has to be elsewhere for a test, and one request."""

    unit: str
    programs: tuple[str, ...]
    drop_in: str
    #: Configuration, by name; ``{host}`` is the folder of the run's own directories.
    files: dict[str, str]
    request: Callable[[Path, int], bytes]
    kmem_max: str = "4M"
    reloads: bool = False


def get_page(host: Path, _: int) -> bytes:
    return ask(f"{host}/run/www/http.sock", b"GET /page HTTP/1.0\r\n\r\n", b"it works")


def scan_keys(_: Path, port: int) -> bytes:
    return subprocess.run(
        ["ssh-keyscan", "-p", str(port), "127.0.0.1"], capture_output=True, check=True, timeout=20
    ).stdout


REAL = (
    Real(
        "memcached/memcached.service",
        ("memcached",),
        "User=nobody\nRuntimeDirectory=memcached\nExecStart=\n"
        "ExecStart=/usr/bin/memcached -s %t/memcached/sock -m 16 -t 2\n",
        {},
        lambda host, _: ask(
            f"{host}/run/memcached/sock", b"set k 0 0 5\r\nhello\r\nget k\r\n", b"hello\r\nEND"
        ),
    ),
    Real(
        "redis-server/redis-server.service",
        ("redis-server",),
        "ExecStart=\nExecStart=/usr/bin/redis-server %Y/redis.conf --supervised systemd --daemonize no\n",
        {"redis.conf": "port 0\nunixsocket {host}/run/redis/sock\nsave ''\ndir {host}/run/redis\n"},
        lambda host, _: ask(
            f"{host}/run/redis/sock", b"SET k hello\r\nGET k\r\nINFO server\r\n", b"hello"
        ),
    ),
    Real(
        "nginx-common/nginx.service",
        ("nginx", "start-stop-daemon"),
        "RuntimeDirectory=www\nPIDFile=\nPIDFile=%t/www/nginx.pid\n"
        + "".join(
            f"{key}=\n{key}=/usr/sbin/nginx -e stderr -c %Y/nginx.conf {options}\n"
            for key, options in (
                ("ExecStartPre", "-t -q"),
                ("ExecStart", "-g 'daemon on; master_process on;'"),
                ("ExecReload", "-s reload"),
            )
        )
        + "ExecStop=\nExecStop=-/sbin/start-stop-daemon --quiet --stop --retry QUIT/5 "
        "--pidfile %t/www/nginx.pid\n",
        {
            "nginx.conf": "pid {host}/run/www/nginx.pid; error_log stderr; worker_processes 2;\n"
            "events {{ }}\n"
            "http {{ access_log off; client_body_temp_path {host}/run/www/b; "
            "proxy_temp_path {host}/run/www/p; fastcgi_temp_path {host}/run/www/f; "
            "uwsgi_temp_path {host}/run/www/u; scgi_temp_path {host}/run/www/s;\n"
            "server {{ listen unix:{host}/run/www/http.sock; location / {{ return 200 'it works'; }} }} }}\n"
        },
        get_page,
        reloads=True,
    ),
    Real(
        "lighttpd/lighttpd.service",
        ("lighttpd",),
        "RuntimeDirectory=www\n"
        "ExecStartPre=\nExecStartPre=/usr/sbin/lighttpd -tt -f %Y/lighttpd.conf\n"
        "ExecStart=\nExecStart=/usr/sbin/lighttpd -D -f %Y/lighttpd.conf\n",
        {
            "lighttpd.conf": 'server.bind = "{host}/run/www/http.sock"\n'
            'server.document-root = "{units}"\nmimetype.assign = ("" => "text/plain")\n',
            "page": "it works\n",
        },
        get_page,
        reloads=True,
    ),
    Real(
        "openssh-server/ssh.service",
        ("sshd", "ssh-keyscan", "ssh-keygen"),
        # As root it would want the host's /run/sshd.
        "User=nobody\nExecStartPre=\nExecStartPre=/usr/sbin/sshd -t -f %Y/sshd_config\n"
        "ExecStart=\nExecStart=/usr/sbin/sshd -D -f %Y/sshd_config\n",
        {
            "sshd_config": "Port {port}\nListenAddress 127.0.0.1\nHostKey {units}/key\nPidFile none\nUsePAM no\n"
        },
        scan_keys,
    ),
    Real(
        "beanstalkd/beanstalkd.service",
        ("beanstalkd",),
        "RuntimeDirectory=beanstalkd\nEnvironmentFile=\nEnvironmentFile=%Y/default\n",
        {
            "default": "# as the package's\nBEANSTALKD_LISTEN_ADDR=127.0.0.1\n"
            'BEANSTALKD_LISTEN_PORT={port}\nBEANSTALKD_EXTRA="-z 1024 -s 4096"\n'
        },
        lambda _, port: ask(port, b"put 0 0 60 5\r\nhello\r\nreserve\r\n", b"hello"),
    ),
)


@pytest.mark.parametrize(
    "real", [pytest.param(one, marks=needs_programs(*one.programs), id=one.unit) for one in REAL]
)
def test_real_service_when_run_then_it_serves_below_its_limit_and_stops_cleanly(stage, real):
    name = Path(real.unit).name
    port = free_port()
    (stage.folder / name).write_bytes((UNITS / real.unit).read_bytes())
    values = {"host": stage.directories.base, "units": stage.folder, "port": port}
    for file, text in real.files.items():
        (stage.folder / file).write_text(text.format(**values))
    if "ssh-keygen" in real.programs:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stage.folder / "key"], check=True
        )
        if os.geteuid() == 0:
            shutil.chown(stage.folder / "key", "nobody")

    async def script(stage):
        assert await stage.started, stage.told(name) + stage.lines(name)
        served = []

        def is_served():
            try:
                served.append(real.request(Path(stage.directories.base), port))
            except OSError:  # simple services listen a moment after they have started
                return False
            return bool(served[0])

        await stage.until(is_served)
        if real.reloads:
            assert await stage.manager.reload([name])
        await stage.manager.look()
        assert stage.manager.describe(name)["tasks"] > 0
        await stage.manager.stop([name])

    # A second drop-in, for the limit alone: what a user would add to any unit.
    found = stage.play(
        {
            f"{name}.d/10-paths.conf": real.drop_in,
            f"{name}.d/20-limit.conf": f"X-KmemMax={real.kmem_max}\nTasksMax=100\n",
        },
        script,
        name,
    )[name]
    assert (found["state"], found["result"], found["starts"]) == ("dead", "success", 1)
    assert 0 < found["memcg"]["kmem"]["max_usage"] <= found["memcg"]["kmem"]["limit"]
    assert found["refusals"]["total"] == 0


def test_real_services_when_counted_then_there_are_five_and_more():
    assert len({one.unit for one in REAL}) >= 5
    assert all((UNITS / one.unit).is_file() for one in REAL)
