"""Serve control connections: memcgs and their files, boxes and their accounts.

Knows requests and replies; ``protocol.py`` frames them, ``boxes.py`` does what they ask.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.door import protocol
from kmem_harness.controller.door.peers import credentials_of, is_within
from kmem_harness.controller.door.task_files import TASK_FILES, refuse_move, show_tasks
from kmem_harness.controller.lifecycle.boxes import Boxes
from kmem_harness.controller.lifecycle.container import memcg_report
from kmem_harness.controller.lifecycle.last_words import Legacy
from kmem_harness.controller.loop import OUT_OF_DESCRIPTORS, READABLE, Loop
from kmem_harness.controller.owner.removal import remove_tree
from kmem_harness.controller.spare_descriptors import is_scarce
from kmem_harness.core import files
from kmem_harness.core.errors import ConfigurationError, KmemHarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmem_harness.controller.account.box import Box
    from kmem_harness.core.memcg import Memcg
    from kmem_harness.core.tree import MemcgTree
    from kmem_harness.procfs.steps import Steps

    _Look = Callable[[dict[str, Any]], Steps[None]]

__all__ = ["PROTOCOL_VERSION", "Server"]

PROTOCOL_VERSION = 1
#: Memcgs in one reply; with their boxes, some 100 kB at most.
_SURVEYED_AT_ONCE = 64
#: Connections at once, besides the owner's. One that never asked anything makes room for another.
MAX_CLIENTS = 256
_BACKLOG = 64
#: Every memcg knows all above it: what a level costs grows with its depth.
_DEEPEST = 256
_MALFORMED = (
    *(LookupError, TypeError, ValueError, AttributeError, OverflowError),
    RecursionError,  # what could just be read may be too deep to be looked at
)


class Server:
    """The controller's door: one tree, many boxes, many clients, one thread."""

    def __init__(self, loop: Loop, tree: MemcgTree, directory: str) -> None:
        """Serve *tree*; sockets are made in *directory*, which the owner made for us."""
        self._loop = loop
        self._tree = tree
        self._directory = directory
        self._control_path = os.path.join(directory, "control.sock")
        self._watchers: dict[socket.socket, Memcg] = {}
        self._boxes = Boxes(loop, directory, self._tell_watchers)
        self._listening: socket.socket | None = None
        #: Whether each has asked anything yet; the first to come is the first in here.
        self._clients: dict[socket.socket, bool] = {}
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "hello": self._hello,
            "make": self._make,
            "remove": self._remove,
            "ls": self._ls,
            "children": self._children,
            "bequeath": self._bequeath,
            "listen_natively": self._listen_natively,
            "entrants": self._entrants,
            "boxes": self._list_boxes,
        }
        #: What is true after a look alone, and that look.
        self._after_looks: dict[str, tuple[_Look, Callable[[dict[str, Any]], dict[str, Any]]]] = {
            "read": (self._look_below, self._read),
            "write": (self._look_below, self._write),
            "counters": (self._look_below, self._counters),
            "state": (self._look_at_box, self._state),
            "under_way": (self._look_for_calls, self._under_way),
            "survey": (self._look_at_all, self._survey),
        }

    # -- connections -----------------------------------------------------------------------

    def listen(self) -> None:
        """Open the control socket for our own user and root: a second terminal may look on.

        A box is our own user, too, and may not: it could raise its own limit.
        """
        self._listening = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        )
        self._listening.bind(self._control_path)
        self._listening.listen(_BACKLOG)
        self._loop.watch(self._listening.fileno(), self._accept)

    def serve(self, connection: socket.socket, ended: Callable[[], None] | None = None) -> None:
        """Answer the requests of one client; call *ended* when it goes."""
        connection.setblocking(False)
        self._loop.watch(connection.fileno(), lambda events: self._hear(connection, events, ended))

    def end_all(self) -> None:
        """Kill every box and remove every file of ours: the owner is gone."""
        self._boxes.end_all()
        with suppress(OSError):
            os.unlink(self._control_path)
        remove_tree(self._directory)  # the owner may keep files of its own there

    def _accept(self, _: int) -> None:
        if self._listening is None:
            return
        try:
            connection, _address = self._listening.accept()
        except OSError as error:  # it hung up at once, or there is no room for it now
            if error.errno in OUT_OF_DESCRIPTORS:
                self._loop.rest(self._listening, self._accept)
            return
        connection.setblocking(False)
        reason = self._full(connection)
        if reason is not None:
            self._refuse(connection, reason)
            connection.close()
            return
        self._clients[connection] = False
        self.serve(connection)

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        with suppress(OSError):
            protocol.send(
                connection, {"error": protocol.describe_error(ConfigurationError(reason))}
            )

    def _unwelcome(self, connection: socket.socket) -> str | None:
        """Say why whoever connected may not ask anything; ``None`` if it may."""
        try:
            pid, uid = credentials_of(connection)
            inits = {box.init_pid for box in self._boxes.all() if box.init_pid}
            if uid not in (0, os.geteuid()):
                return f"process {pid} runs as user {uid}: only our own user and root may ask"
            if is_within(connection, inits):
                return f"process {pid} runs in a box, or is gone: no box may change its own limits"
        except OSError as error:
            return f"it cannot be seen who asks: {error}"
        return None

    def _full(self, connection: socket.socket) -> str | None:
        """Make room for one more client; say why there is none."""
        if is_scarce(connection.fileno()):
            return "the controller has hardly a descriptor left: end clients or boxes first"
        if len(self._clients) >= MAX_CLIENTS:
            silent = next((one for one, spoke in self._clients.items() if not spoke), None)
            if silent is None:
                return f"{MAX_CLIENTS} clients are connected: end one of them first"
            self._end(silent)
        return None

    def _hear(
        self, connection: socket.socket, events: int, ended: Callable[[], None] | None
    ) -> None:
        if not self._is_welcome(connection):
            return
        try:
            request, fds = protocol.receive(connection) if events & READABLE else (None, [])
        except BlockingIOError:
            return
        except ConfigurationError as error:
            self._reply(connection, {"error": protocol.describe_error(error)})
            return
        except (protocol.ConnectionEndedError, OSError):
            request, fds = None, []
        if request is None:
            self._end(connection)
            if ended is not None:
                ended()
            return

        self._carry_out(connection, request, fds)

    def _is_welcome(self, connection: socket.socket) -> bool:
        """Judge a client by who it is, before anything it says is read; hang up if it may not ask.

        Not when it connects: that costs more than all else about those who stay silent.
        """
        if self._clients.get(connection) is False:
            reason = self._unwelcome(connection)
            if reason is not None:
                self._refuse(connection, reason)
                with suppress(OSError):
                    connection.recv(1)  # left unread, it would be an error there before the reason
                self._end(connection)
                return False
            self._clients[connection] = True
        return True

    def _carry_out(
        self, connection: socket.socket, request: dict[str, Any], fds: list[int]
    ) -> None:
        def respond(reply: dict[str, Any]) -> None:
            self._reply(connection, {**reply, "serial": request.get("serial")})

        looked_for = self._after_looks.get(str(request.get("op")))
        if looked_for is not None:
            protocol.close_all(fds)
            self._loop.spawn(self._look_and_answer(request, *looked_for, respond))
            return
        try:
            reply = self._answer(connection, request, fds, respond)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no other client's matter
            reply = _excuse(request, error)
        finally:
            protocol.close_all(fds)
        if reply is not None:
            respond(reply)

    def _look_and_answer(
        self,
        request: dict[str, Any],
        look: _Look,
        handle: Callable[[dict[str, Any]], dict[str, Any]],
        respond: Callable[[dict[str, Any]], None],
    ) -> Iterator[Any]:
        """Carry out a request after a look, which may take long: others are served meanwhile."""
        try:
            yield from look(request)
            reply = {"ok": True, **handle(request)}
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no other client's matter
            reply = _excuse(request, error)
        respond(reply)

    def _reply(self, connection: socket.socket, reply: dict[str, Any]) -> None:
        try:
            protocol.send(connection, reply)
        except (OSError, RecursionError):  # it is gone; asks without reading; nests too deeply
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        self._clients.pop(connection, None)
        if self._watchers.pop(connection, None) is not None:
            self._mark_watched()
        if connection.fileno() >= 0:
            self._loop.forget(connection.fileno())
            connection.close()

    # -- requests --------------------------------------------------------------------------

    def _answer(
        self,
        connection: socket.socket,
        request: dict[str, Any],
        fds: list[int],
        respond: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any] | None:
        """Carry out one request; ``None`` where the reply comes later, through *respond*."""
        operation = str(request.get("op"))
        if operation == "arm":
            memcg = self._tree.find(request["memcg"])
            path = self._boxes.arm(memcg, request, fds)
            self._mark_watched()
            return {"ok": True, "socket": path, "memcg": memcg_report(memcg)}
        if operation == "expect":
            self._boxes.expect(
                request["box"],
                int(request["pid"]),
                fds,
                lambda failure: respond(
                    {"error": protocol.describe_error(failure)} if failure else {"ok": True}
                ),
            )
            return None
        if operation == "finish":
            self._boxes.finish(
                request["box"],
                lambda final: respond({"ok": True, **final}),
                keep=bool(request.get("keep")),
                pids=request.get("pids"),
            )
            return None
        if operation == "watch":
            self._watchers[connection] = self._tree.find(request["path"])
            self._mark_watched()
            return {"ok": True}
        try:
            handle = self._operations[operation]
        except KeyError:
            known = ", ".join(
                sorted([*self._operations, *self._after_looks, "arm", "expect", "finish", "watch"])
            )
            message = f"unknown control operation {operation!r}; known are {known}"
            raise ConfigurationError(message) from None
        return {"ok": True, **handle(request)}

    def _hello(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"version": PROTOCOL_VERSION, "kernel": self._tree.profile.name, "pid": os.getpid()}

    def _make(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make a memcg, with those above it if asked; then one that is there already is kept."""
        path = str(request["path"])
        if path.count("/") > _DEEPEST:
            message = f"memcg {path[:80]!r}... lies over {_DEEPEST} deep; take fewer levels"
            raise ConfigurationError(message)
        if request.get("parents"):
            parts = [part for part in path.split("/") if part]
            for depth in range(1, len(parts) + 1):
                with suppress(FileExistsError):
                    self._tree.make("/" + "/".join(parts[:depth]))
        else:
            self._tree.make(path)
        self._boxes.withdraw_above(self._tree.find(path))
        return {}

    def _remove(self, request: dict[str, Any]) -> dict[str, Any]:
        memcg = self._tree.find(request["path"])
        for box in self._boxes.all():
            if box.memcg is memcg:
                raise OSError(errno.EBUSY, f"rmdir {memcg.path}: box {box.name} runs in it")
        show_tasks(self._tree, memcg, self._boxes.all())
        self._boxes.withdraw_above(memcg)
        self._tree.remove(memcg.path)
        return {}

    def _read(self, request: dict[str, Any]) -> dict[str, Any]:
        """Read a control file, after a census: what is read is true."""
        memcg = self._tree.find(request["path"])
        if request["file"] in TASK_FILES:
            show_tasks(self._tree, memcg, self._boxes.all())
        value = self._tree.read(request["path"], request["file"])
        return {"value": value.removesuffix("\n")}

    def _write(self, request: dict[str, Any]) -> dict[str, Any]:
        memcg = self._tree.find(request["path"])
        if request["file"] in TASK_FILES:
            raise refuse_move(memcg, request["file"], request["value"])
        show_tasks(self._tree, memcg, self._boxes.all())
        unbound = self._boxes.unfiltered_below(memcg)
        if unbound is not None and request["file"].endswith("limit_in_bytes"):
            raise OSError(
                errno.EBUSY,
                f"{memcg.path}/{request['file']}: box {unbound.name} runs without a filter, so a "
                "limit set now would not bind it; set the limit before the box starts, or start "
                "it in observe mode",
            )
        self._boxes.withdraw_below(memcg)
        self._tree.write(request["path"], request["file"], request["value"])
        return {}

    def _ls(self, request: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"entries": self._tree.ls(request["path"])}
        if request.get("modes"):
            reply["modes"] = files.modes_in(self._tree.find(request["path"]))
        return reply

    def _children(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"names": sorted(self._tree.find(request["path"]).children)}

    def _counters(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"memcg": memcg_report(self._tree.find(request["path"]))}

    def _state(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._boxes.describe(request["box"])

    def _bequeath(self, request: dict[str, Any]) -> dict[str, Any]:
        legacy = Legacy(str(request["socket"]), str(request["message"]).encode())
        self._boxes.bequeath(request["box"], legacy)
        return {}

    def _listen_natively(self, request: dict[str, Any]) -> dict[str, Any]:
        profile, file = self._boxes.listen_natively(
            request["box"], request["profile"], request["flags"]
        )
        return {"profile": profile, "file": file}

    def _entrants(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"entrants": self._boxes.entrants(request["box"])}

    def _under_way(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"calls": self._boxes.under_way(request["box"])}

    def _list_boxes(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "boxes": [
                {"box": box.name, "memcg": box.memcg.path, "init_pid": box.init_pid}
                for box in self._boxes.all()
            ]
        }

    def _survey(self, request: dict[str, Any]) -> dict[str, Any]:
        """Give counters and boxes of the memcgs after a path, as many as go into one packet."""
        after = str(request.get("after", ""))
        memcgs = {memcg.path: memcg for memcg in _and_all_below(self._tree.root)}
        paths = sorted(path for path in memcgs if path > after)
        boxes: dict[str, list[dict[str, Any]]] = {}
        for box in self._boxes.all():
            boxes.setdefault(box.memcg.path, []).append(box.survey())
        rows = [
            {**memcg_report(memcgs[path]), "boxes": boxes.get(path, [])}
            for path in paths[:_SURVEYED_AT_ONCE]
        ]
        return {"memcgs": rows, "more": len(paths) > len(rows)}

    # -- looks before an answer ------------------------------------------------------------

    def _look_below(self, request: dict[str, Any]) -> Steps[None]:
        return self._boxes.take_census(self._tree.find(request["path"]).kmem)

    def _look_at_box(self, request: dict[str, Any]) -> Steps[None]:
        return self._boxes.take_census(self._boxes.counter_of(request["box"]))

    def _look_for_calls(self, request: dict[str, Any]) -> Steps[None]:
        return self._boxes.prove_tickets(request["box"])

    def _look_at_all(self, request: dict[str, Any]) -> Steps[None]:
        if not request.get("after"):
            yield from self._boxes.take_census(self._tree.root.kmem)

    # -- watchers --------------------------------------------------------------------------

    def _mark_watched(self) -> None:
        """Have a card written for every refusal, not the first hundred alone, where one reads."""
        for box in self._boxes.all():
            box.watched = any(memcg.kmem in box.counters for memcg in self._watchers.values())

    def _tell_watchers(self, box: Box, card: dict[str, Any]) -> None:
        for connection, memcg in list(self._watchers.items()):
            if memcg.kmem in box.counters:
                with suppress(OSError):  # a slow reader loses events; one that is gone, all of them
                    protocol.send(connection, {"event": "charge.refused", **card})


def _excuse(request: dict[str, Any], error: Exception) -> dict[str, Any]:
    """Say what a request failed at: something it asked for, its form, or a mistake of ours."""
    if not isinstance(error, (KmemHarnessError, OSError)):
        operation = request.get("op")
        named = repr(operation) if isinstance(operation, str) else "of no name"
        if isinstance(error, _MALFORMED):
            error = ConfigurationError(f"control request {named} is malformed: {error!r}")
        else:
            import traceback  # noqa: PLC0415 - it takes long to import, and is for mistakes alone

            traceback.print_exception(error)
            error = KmemHarnessError(f"the controller failed at {named}: {error!r}")
    return {"error": protocol.describe_error(error)}


def _and_all_below(memcg: Memcg) -> Iterator[Memcg]:
    waiting = [memcg]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += one.children.values()
