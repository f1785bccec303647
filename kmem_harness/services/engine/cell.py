"""Hold one activation of a service: its box, and the conversation with the program inside it.

Knows packets and pids; knows no units. Everything happens in the event loop; what would block it
is done in threads.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import KmemHarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmem_harness.box import Box
    from kmem_harness.handles import MemcgHandle
    from kmem_harness.harness import Harness

__all__ = ["Cell", "CellLostError"]

_PROGRAM = os.path.join(os.path.dirname(__file__), "inside.py")
_PACKET = 200_000
#: Its init and the program inside, beside the tasks of the service.
_OWN_TASKS = 2
#: What the program inside says, and what each of it has: a service may have taken it over.
_EVENTS: dict[str, dict[str, type]] = {
    "executed": {"pid": int},
    "exited": {"pid": int},
    "failed": {"pid": int, "step": str, "reason": str},
    "empty": {},
    "notify": {"pid": int, "text": str},
}
_ANSWERS: dict[str, dict[str, type]] = {
    "spawn": {"pid": int},
    "watch": {"alive": bool},
    "signal": {"count": int},
    "list": {"pids": list, "own": list},
}
_MAY_HAVE = {"code": int, "signal": int, "core": int}


class CellLostError(KmemHarnessError):
    """The box ended under our hands: the service killed our program in it, or the controller died."""


class Cell:
    """A box with our program in it."""

    def __init__(
        self, link: socket.socket, output: int, on_event: Callable[[dict[str, Any]], None]
    ) -> None:
        """Talk over *link*; read the service's lines from *output*."""
        self._link = link
        self.output = output
        self._on_event = on_event
        self._serials = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.box: Box
        self.lost = False

    @classmethod
    async def open(
        cls,
        harness: Harness,
        memcg: MemcgHandle,
        on_event: Callable[[dict[str, Any]], None],
        *,
        notify: str = "",
        tasks_max: int | None = None,
        faults: Sequence[str] = (),
        kinds: Sequence[str] | None = None,
    ) -> Cell:
        """Start a box in *memcg* with nothing of the service in it yet.

        Raises: KmemHarnessError, OSError; nothing is left running then.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, writing = os.pipe()
        cell = cls(ours, reading, on_event)
        try:
            cell.box = await asyncio.to_thread(
                harness.run,
                [sys.executable, "-I", "-S", _PROGRAM, *([notify] if notify else [])],
                memcg=memcg,
                stdin=theirs,
                stdout=writing,
                stderr=writing,
                cwd="/",
                pids_max=None if tasks_max is None else tasks_max + _OWN_TASKS,
                faults=faults,
                kinds=kinds,
            )
        except BaseException:
            ours.close()
            os.close(reading)
            raise
        finally:
            theirs.close()
            os.close(writing)
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        loop.add_reader(ours.fileno(), cell._hear)
        loop.add_reader(cell.box.running.fileno(), cell._ended)
        return cell

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Have the program inside do something. Raises: CellLostError; OSError as it met it."""
        if self.lost:
            raise CellLostError("its box has ended")
        serial = next(self._serials)
        answer = self._answers[serial] = asyncio.get_running_loop().create_future()
        try:
            self._link.send(json.dumps({"op": op, "serial": serial, **fields}).encode())
            got: dict[str, Any] = await answer
        except (BrokenPipeError, ConnectionResetError) as error:
            raise CellLostError("its box has ended") from error
        finally:
            self._answers.pop(serial, None)
        if got.get("errno") in errno.errorcode:
            raise OSError(got["errno"], os.strerror(got["errno"]))
        if not _fits(got, _ANSWERS[op]):
            self._distrust()
            raise CellLostError("what answers in its box is not our program")
        return got

    async def kill(self) -> None:
        """End the box at once: whoever waits for something in it is told that it is lost."""
        self._forget()
        self._on_event({"event": "lost"})
        await asyncio.to_thread(self.box.kill)

    async def close(self) -> dict[str, Any]:
        """End the box and everything in it; give its last report."""
        loop = asyncio.get_running_loop()
        self._forget()
        await asyncio.to_thread(self.box.kill)
        report: dict[str, Any] = await asyncio.to_thread(self.box.report)
        await asyncio.to_thread(self.box.close)
        loop.remove_reader(self._link.fileno())
        self._link.close()
        return report

    def _hear(self) -> None:
        while True:
            try:
                packet = self._link.recv(_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                asyncio.get_running_loop().remove_reader(self._link.fileno())
                return
            message = _read(packet)
            if message is None:
                self._distrust()
                return
            if "serial" in message:
                answer = self._answers.get(message["serial"])
                if answer is not None and not answer.done():
                    answer.set_result(message)
            else:
                self._on_event(message)

    def _distrust(self) -> None:
        """Hear nothing more of a box in which something else speaks for our program."""
        asyncio.get_running_loop().remove_reader(self._link.fileno())
        self._forget()
        self._on_event({"event": "lost"})

    def _ended(self) -> None:
        """Learn that the box is over, whether we asked for it or not."""
        self._hear()  # what was said before
        self._forget()
        self._on_event({"event": "lost"})

    def _forget(self) -> None:
        if self.lost:
            return
        self.lost = True
        with suppress(ValueError, OSError):
            asyncio.get_running_loop().remove_reader(self.box.running.fileno())
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(CellLostError("its box has ended"))


def _read(packet: bytes) -> dict[str, Any] | None:
    """Read what came out of a box; ``None`` if our program does not say such things."""
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    if "serial" in message:
        return message if type(message["serial"]) is int else None
    event = message.get("event")
    return message if isinstance(event, str) and _fits(message, _EVENTS.get(event)) else None


def _fits(message: dict[str, Any], wanted: dict[str, type] | None) -> bool:
    if wanted is None:
        return False
    may_have = {key: kind for key, kind in _MAY_HAVE.items() if key in message}
    return all(type(message.get(key)) is kind for key, kind in (wanted | may_have).items())
