"""Let a second terminal look at a running instance, and tell it what to do.

A unix socket beside the controller's own, in a folder that only its user can enter: whoever can
connect may do all. One JSON object a line, each way.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.controller.owner.client import running
from kmem_harness.core.errors import ConfigurationError, KmemHarnessError

if TYPE_CHECKING:
    from kmem_harness.services.engine.manager import Manager

__all__ = ["ask_running", "serve_control"]

_NAME = "services.sock"
_LONGEST_LINE = 1 << 22
#: What can be done to units, by the manager's names.
_JOBS = ("start", "stop", "restart", "try_restart", "reload")


async def serve_control(manager: Manager, directory: str) -> asyncio.AbstractServer:
    """Answer for *manager* at a socket in *directory*, until the server is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.LimitOverrunError, ValueError):
            while line := await reader.readline():
                writer.write(json.dumps(await _carry_out(manager, line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    path = os.path.join(directory, _NAME)
    return await asyncio.start_unix_server(answer, path, limit=_LONGEST_LINE)


async def _carry_out(manager: Manager, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        operation = _OPERATIONS[request["op"]]
        return {"ok": True, "answer": await operation(manager, request)}
    except (KmemHarnessError, OSError) as error:
        return {"ok": False, "error": str(error)}
    except (ValueError, KeyError, TypeError) as error:
        return {"ok": False, "error": f"not a request: {error!r}"}


async def _status(manager: Manager, request: dict[str, Any]) -> Any:
    await manager.look()
    report = manager.report()
    names = request.get("units") or [one["unit"] for one in report["units"]]
    units = [manager.describe(name) for name in names]
    for unit in units:
        unit["lines"] = manager.journal.lines_of(unit["unit"])
    return {**report, "units": units}


def _job(name: str) -> Any:
    """Make the operation that has a job done on units."""

    async def carry_out(manager: Manager, request: dict[str, Any]) -> Any:
        units, mode = request.get("units") or [], request.get("mode", "replace")
        if name == "stop" and not units:
            manager.ask_to_stop()
            return True
        manager.refuse_by_hand(name, units)
        if name == "start" and mode == "isolate":
            return all([await manager.isolate(unit) for unit in units])
        return await getattr(manager, name)(units, mode)

    return carry_out


async def _reset_failed(manager: Manager, request: dict[str, Any]) -> Any:
    manager.reset_failed(request.get("units") or list(manager.members))
    return True


async def _set_property(manager: Manager, request: dict[str, Any]) -> Any:
    manager.set_property(request["unit"], request["assignments"])
    return True


_OPERATIONS = {
    "status": _status,
    **{name.replace("_", "-"): _job(name) for name in _JOBS},
    "reset-failed": _reset_failed,
    "set-property": _set_property,
}


def ask_running(op: str, **fields: Any) -> Any:
    """Have the newest running instance of ours do something; give its answer.

    Raises: ConfigurationError if none runs, or if it cannot do that.
    """
    for control in running():
        path = os.path.join(os.path.dirname(control), _NAME)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except OSError:  # a harness without services, or one just ending
            connection.close()
            continue
        with connection, connection.makefile("rwb") as stream:
            stream.write(json.dumps({"op": op, **fields}).encode() + b"\n")
            stream.flush()
            line = stream.readline()
        if not line:
            break
        reply = json.loads(line)
        if not reply["ok"]:
            raise ConfigurationError(reply["error"])
        return reply["answer"]
    message = "no services of yours are running; start them with kmem-harness services run"
    raise ConfigurationError(message)
