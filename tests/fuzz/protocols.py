"""Readers of what comes over sockets, each at work on real ones in this process."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import struct
import tempfile
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.door.protocol import FRAME, error_from
from kmem_harness.controller.door.server import Server
from kmem_harness.controller.lifecycle.runtime_handshake import RuntimeHandshake
from kmem_harness.controller.lifecycle.shim_handshake import Handshake
from kmem_harness.controller.loop import Loop
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from kmem_harness.interposer.filter import MAGIC
from kmem_harness.interposer.profile import ALLOW_ALL
from kmem_harness.runtimes.sidecar import _Unpacker
from kmem_harness.services.engine.activation import Activation
from kmem_harness.services.engine.cell import Cell
from kmem_harness.services.engine.states import State
from kmem_harness.services.unitfile.names import parse_name
from kmem_harness.services.unitfile.specifiers import Directories
from kmem_harness.services.unitfile.syntax import Assignment, Place
from kmem_harness.services.unitfile.unit import build_unit
from tests.fuzz.reader import Reader, of_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmem_harness.services.unitfile.unit import Unit
    from tests.fuzz.reader import Read

__all__ = ["READERS"]

#: What has state is made anew after so many inputs, so that it grows no further than that.
_RENEWED = 200
_OUTCOME = struct.Struct("=IiI20s")
_KINDS = {
    "task": {"nbytes": 8192, "errno": 12, "errno_name": "ENOMEM"},
    "pipe": {"nbytes": 900, "errno": 23, "errno_name": "ENFILE", "included": 1},
    "mine": {"nbytes": 1, "errno": 12, "errno_name": "ENOMEM", "made_by": ["pipe2"]},
}
_ARM = {"op": "arm", "box": "b", "memcg": "/a", "isolation": "none", "kinds": _KINDS}
_REQUESTS: tuple[dict[str, Any], ...] = (
    {"op": "hello", "serial": 1},
    {"op": "make", "path": "/a/b/c", "parents": True},
    {"op": "make", "path": "/d"},
    {"op": "remove", "path": "/d"},
    {"op": "read", "path": "/a", "file": "memory.kmem.usage_in_bytes"},
    {"op": "write", "path": "/a", "file": "memory.kmem.limit_in_bytes", "value": "8M"},
    {"op": "write", "path": "/a", "file": "tasks", "value": "1"},
    {"op": "ls", "path": "/a", "modes": True},
    {"op": "children", "path": "/"},
    {"op": "counters", "path": "/a"},
    {**_ARM, "observe": True, "record": False},
    {**_ARM, "box": "l", "observe": True, "lasting": True},
    {**_ARM, "box": "f", "observe": False, "faults": ["socket:error=ENOMEM:when=3"]},
    {
        "op": "listen_natively",
        "box": "l",
        "profile": ALLOW_ALL,
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    },
    {"op": "state", "box": "b"},
    {"op": "finish", "box": "b", "keep": True},
    {"op": "finish", "box": "f"},
    {"op": "bequeath", "box": "b", "socket": "/nowhere", "message": "x"},
    {"op": "entrants", "box": "b"},
    {"op": "boxes"},
    {"op": "survey", "after": "/"},
    {"op": "watch", "path": "/a"},
    {"op": "make", "path": "/x" * 99, "parents": True},
    {"op": "make", "path": "/y" * 250, "parents": True},
)
_STATE = {
    "ociVersion": "1.0.2",
    "fds": ["seccompFd"],
    "pid": 7,
    "state": {"status": "creating", "pid": 7},
}
_TOLD: tuple[dict[str, Any], ...] = (
    {"event": "executed", "pid": 7},
    {"event": "exited", "pid": 7, "code": 1},
    {"event": "exited", "pid": 7, "signal": 9, "core": 1},
    {"event": "failed", "pid": 7, "step": "exec", "reason": "no"},
    {"event": "empty"},
    {"event": "notify", "pid": 7, "text": "READY=1\nSTATUS=x\nMAINPID=7"},
    {"event": "notify", "pid": 7, "text": "WATCHDOG=1\nWATCHDOG_USEC=5000\nEXTEND_TIMEOUT_USEC=9"},
    {"event": "notify", "pid": 7, "text": "RELOADING=1\nSTOPPING=1\nWATCHDOG=trigger"},
    {"serial": 1, "pid": 7},
    {"serial": 2, "errno": 3},
)


def _encoded(*messages: dict[str, Any]) -> tuple[bytes, ...]:
    return tuple(json.dumps(message).encode() for message in messages)


class _Turns(Loop):
    """A loop whose turns are taken one by one."""

    def turn(self) -> None:
        self.call_later(0, self.stop)
        self._running = True
        self.run()

    def close(self) -> None:
        self._others.close()


def _rights(data: bytes, fds: tuple[int, ...]) -> list[Any]:
    """Have some of *fds* go along with one input in eight, as its first byte says."""
    which = data[0] if data else 0
    sent = [fds[at % len(fds)] for at in range(which % 6)] if which % 8 == 0 else []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))] if sent else []


class _Controller:
    """A controller's server and one client of it."""

    def __init__(self, directory: str) -> None:
        self.loop = _Turns()
        self.server = Server(
            self.loop, MemcgTree(profile_named("5.10"), stock=False, use_hierarchy=True), directory
        )
        self.client, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs = theirs
        self.client.setblocking(False)
        self.server.serve(theirs)
        for request in ({"op": "make", "path": "/a"}, _REQUESTS[10]):
            self.ask(json.dumps(request).encode(), [])

    @property
    def is_over(self) -> bool:
        """Whether the client was cut off."""
        return self._theirs.fileno() < 0

    def ask(self, data: bytes, rights: list[Any]) -> None:
        self.client.sendmsg([data], rights)
        self.loop.turn()
        with suppress(BlockingIOError):
            while answer := self.client.recv(300_000):
                reply = json.loads(answer)
                if not ("ok" in reply or reply["error"]["message"]):
                    raise AssertionError(f"no answer: {answer!r}")
                if "error" in reply:
                    error_from(reply["error"])

    def close(self) -> None:
        boxes = self.server._boxes
        for running in list(boxes._running.values()):
            boxes._close(running)  # not end_all(), which kills who was named as an init
        self.client.close()
        if not self.is_over:
            self.server._end(self._theirs)
        self.loop.close()


@contextmanager
def _control() -> Iterator[Read]:
    with (
        tempfile.TemporaryDirectory() as directory,
        Path(os.devnull).open("wb") as null,
    ):
        controller, number = _Controller(directory), 0

        def read(data: bytes) -> None:
            nonlocal controller, number
            number += 1
            if number % _RENEWED == 0 or controller.is_over:
                controller.close()
                controller = _Controller(directory)
            if data:
                controller.ask(data, _rights(data, (null.fileno(),)))

        yield read
        controller.close()


class _Door:
    """Somebody at the socket of a handshake: one input is one connection, hung up on or not."""

    def __init__(self, path: str, loop: _Turns) -> None:
        self._path = path
        self._loop = loop
        self._fds = (*os.pipe(), os.open(os.devnull, os.O_RDONLY))

    def knock(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(self._path)
            self._loop.turn()
            if data:
                with suppress(BrokenPipeError, ConnectionResetError):
                    half = len(data) // 2 if data[0] % 5 == 0 else 0
                    if half:
                        peer.send(data[:half])
                        self._loop.turn()
                    peer.sendmsg([data[half:]], _rights(data, self._fds))
            self._loop.turn()
        self._loop.turn()

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@contextmanager
def _shim() -> Iterator[Read]:
    """Be the announced process, and whoever else is let in."""
    with tempfile.TemporaryDirectory() as directory:
        loop = _Turns()
        path = f"{directory}/box/shim.sock"
        handshake = Handshake(loop, path, b"offer", lambda _: True, lambda _: True)
        handshake.expect(os.getpid())
        door = _Door(path, loop)
        yield door.knock
        left = len(handshake._peers) + len(handshake._trusted) + len(handshake._deadlines)
        door.close()
        handshake.close()
        loop._timers.clear()
        loop.close()
        _expect_none(left)


@contextmanager
def _runtime() -> Iterator[Read]:
    with tempfile.TemporaryDirectory() as directory:
        loop, number = _Turns(), 0
        path = f"{directory}/box.sock"
        handshake = RuntimeHandshake(loop, path, 0, lambda _: True)
        door = _Door(path, loop)

        def read(data: bytes) -> None:
            nonlocal number
            number += 1
            if number % _RENEWED == 0:
                loop._timers.clear()  # one a connection, for a minute
            door.knock(data)

        yield read
        left = len(handshake._peers)
        door.close()
        handshake.close()
        loop._timers.clear()
        loop.close()
        _expect_none(left)


def _expect_none(left: int) -> None:
    if left:
        raise AssertionError(f"{left} who hung up are remembered")


def _read_errors(data: bytes) -> None:
    described = json.loads(data)
    if isinstance(described, dict):
        error_from(described)


def _read_frames(data: bytes) -> None:
    unpacker = _Unpacker(lambda _: None, lambda _: None)
    for at in range(0, len(data), 97):
        unpacker.feed(data[at : at + 97])


@cache
def _unit() -> Unit:
    keys = (("Type", "notify"), ("ExecStart", "/bin/true"), ("WatchdogSec", "5"))
    place = Place("a.service", 1)
    assignments = [Assignment("Service", key, value, place) for key, value in keys]
    return build_unit(parse_name("a.service"), [], assignments, Directories("/base"))


class _Owner:
    """A service whose box speaks."""

    def __init__(self) -> None:
        self.directories = Directories("/base")
        self.unit = _unit()
        self.state = State.START
        self.status_text = ""

    is_restarted = False

    def enter(self, state: State, *, reload_failed: bool = False) -> None:
        self.state = state

    def say(self, text: str) -> None:
        str(text).encode("utf-8", "replace")


class _Box:
    """The program inside a service's box, or who has taken it over, and the service itself."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, told: self._failed.append(told["exception"]))
        self._failed: list[BaseException] = []
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._number = 0
        self._activation = self._loop.run_until_complete(self._begin())

    def say(self, data: bytes) -> None:
        self._number += 1
        if self._number % _RENEWED == 0 or self._activation._processes.cell.lost:
            self._end()
            self._activation = self._loop.run_until_complete(self._begin())
        if data:
            self._theirs.send(data)
            self._loop.run_until_complete(self._hear())
        if self._failed:
            raise self._failed.pop()

    def close(self) -> None:
        self._end()
        self._loop.close()
        self._ours.close()
        self._theirs.close()

    async def _begin(self) -> Activation:
        activation = Activation(_Owner(), "")
        activation._processes.cell = Cell(self._ours, -1, activation.event)
        activation._processes.cell.box = SimpleNamespace(running=self._theirs)
        return activation

    async def _hear(self) -> None:
        self._activation._processes.cell._hear()
        with suppress(BlockingIOError):
            while self._theirs.recv(200_000):
                pass

    def _end(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))


@contextmanager
def _box() -> Iterator[Read]:
    box = _Box()
    yield box.say
    box.close()


READERS = {
    "control protocol": Reader(
        _control,
        _encoded(*_REQUESTS),
        (b'"op"', b'"path"', b'"box"', b"/a", b"..", b"tasks", b"b", b"l", b"f", b"memory.kmem"),
        is_json=True,
        share=0.6,
    ),
    "handshake": Reader(
        _shim,
        (
            _OUTCOME.pack(MAGIC, 0, 40, b""),
            _OUTCOME.pack(MAGIC, 22, 0, b"install filter"),
            _OUTCOME.pack(MAGIC, 0, 40, b"")[:-5],
        ),
        (struct.pack("=I", MAGIC),),
        share=0.6,
    ),
    "runtime's handshake": Reader(
        _runtime,
        _encoded(_STATE, {**_STATE, "state": {"status": "running"}}),
        is_json=True,
        share=0.4,
    ),
    "described error": Reader(
        of_bytes(_read_errors),
        _encoded(
            {"type": "OSError", "errno": 2, "message": "x"},
            {"type": "ShimError", "message": "x", "step": "exec", "errno": 3},
            {"type": "UnsupportedHostError", "message": "x", "missing": "a", "remedy": "b"},
        ),
        errors=(ValueError, RecursionError),  # no JSON
        is_json=True,
    ),
    "frames": Reader(
        of_bytes(_read_frames),
        (struct.pack(">BxxxL", 1, 6) + FRAME.pack(2) + b"{}", struct.pack(">BxxxL", 2, 1) + b"x"),
        (FRAME.pack(0), b"\x01\0\0\0", b"\x02\0\0\0", b"\xff\xff\xff\xff"),
    ),
    "service's box": Reader(
        _box,
        _encoded(*_TOLD),
        (
            b"READY=1",
            b"MAINPID=",
            b"WATCHDOG_USEC=",
            b"EXTEND_TIMEOUT_USEC=",
            b"\\n",
            b"=",
            b"notify",
        ),
        is_json=True,
        share=0.3,
    ),
}
