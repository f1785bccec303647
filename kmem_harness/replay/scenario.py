"""Play a step-by-step scenario on a fresh machine.

Knows operations; what agrees with a recording is decided in ``verdict``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from kmem_harness.core import files
from kmem_harness.core.errors import kernel_error
from kmem_harness.replay.machine import KILLED, OK, Machine
from kmem_harness.replay.workloads import workload_named

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.core.memcg import Memcg
    from kmem_harness.replay.trace import Trace

__all__ = ["play_scenario"]

_SIGKILL = 9
_DIRECTORY = "40755"


def play_scenario(trace: Trace, machine: Machine) -> list[dict[str, Any]]:
    """Run every step and return the same steps with the emulated outcomes."""
    player = _Player(machine)
    return [player.play(step) for step in trace.steps]


class _Player:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._tree = machine.tree
        self._ops: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "mkdir": self._mkdir,
            "rmdir": self._rmdir,
            "unlink": self._unlink,
            "creat": self._creat,
            "rename": self._rename,
            "stat": self._stat,
            "ls": self._ls,
            "write": self._write,
            "read": self._read,
            "spawn": self._spawn,
            "do": self._do,
            "free": self._free,
            "kill": self._kill,
            "move": self._move,
            "dropcaches": self._dropcaches,
            "mount-fresh-tmpfs": self._mount,
            "umount-tmpfs": self._unmount,
            "sleep": self._sleep,
        }

    def play(self, step: dict[str, Any]) -> dict[str, Any]:
        """Run one step."""
        outcome = {key: step[key] for key in step if key not in _OUTCOMES}
        try:
            outcome["result"] = "ok"
            outcome.update(self._ops[step["op"]](step))
        except OSError as error:
            outcome["result"] = errno.errorcode.get(error.errno or 0, str(error.errno))
            if step["op"] == "write":
                outcome["failed_call"] = getattr(error, "failed_call", "write")
        self._machine.tick()
        return outcome

    # Directories and files ------------------------------------------------------------------

    def _mkdir(self, step: dict[str, Any]) -> dict[str, Any]:
        self._tree.make(step["file"])
        return {}

    def _rmdir(self, step: dict[str, Any]) -> dict[str, Any]:
        self._tree.remove(step["file"])
        return {}

    def _rename(self, step: dict[str, Any]) -> dict[str, Any]:
        self._tree.rename(step["file"], step["to"])
        return {}

    def _split(self, step: dict[str, Any]) -> tuple[Memcg, str]:
        path, _, name = step["file"].rpartition("/")
        return self._tree.find(path), name

    def _unlink(self, step: dict[str, Any]) -> dict[str, Any]:
        memcg, name = self._split(step)
        if files.has(memcg, name):
            raise kernel_error(errno.EPERM, "control files stay", rule="K78", file=step["file"])
        self._tree.find(step["file"])
        raise kernel_error(errno.EISDIR, "a directory", rule="K78", file=step["file"])

    def _creat(self, step: dict[str, Any]) -> dict[str, Any]:
        memcg, name = self._split(step)
        if name in memcg.children:
            raise kernel_error(errno.EISDIR, "a directory", rule="K78", file=step["file"])
        if not files.has(memcg, name):
            why = "only the kernel makes files here"
            raise kernel_error(errno.EACCES, why, rule="K78", file=step["file"])
        return {}

    def _stat(self, step: dict[str, Any]) -> dict[str, Any]:
        memcg, name = self._split(step)
        if files.has(memcg, name):
            return {"mode": f"{files.modes_in(memcg)[name]:o}", "size": 0, "nlink": 1}
        found = self._tree.find(step["file"])
        return {"mode": _DIRECTORY, "size": 0, "nlink": 2 + len(found.children)}

    def _ls(self, step: dict[str, Any]) -> dict[str, Any]:
        modes = files.modes_in(self._tree.find(step["file"]))
        return {"entries": [[name, f"{mode:o}"] for name, mode in modes.items()]}

    def _write(self, step: dict[str, Any]) -> dict[str, Any]:
        text = step["value"].ljust(step.get("padded_with_spaces_to", 0))
        path, _, name = step["file"].rpartition("/")
        try:
            file = self._tree.open(path, name)
        except OSError as error:
            error.failed_call = "open"  # type: ignore[attr-defined]
            raise
        file.write(text)
        if name == "memory.force_empty" and text:
            self._machine.wait_for_force_empty(self._tree.find(path))
        return {}

    def _read(self, step: dict[str, Any]) -> dict[str, Any]:
        path, _, name = step["file"].rpartition("/")
        return {"value": self._tree.read(path, name).removesuffix("\n")}

    # Workers --------------------------------------------------------------------------------

    def _spawn(self, step: dict[str, Any]) -> dict[str, Any]:
        self._machine.spawn(step["worker"], step["group"])
        return {}

    def _do(self, step: dict[str, Any]) -> dict[str, Any]:
        workload = workload_named(step["workload"])
        # Whether a churn outruns the grace periods depends on the machine: the recording knows.
        outran = workload is not None and workload.churns and step["result"] != OK
        self._machine.hold_grace_periods(held=outran)
        made, result = self._machine.do(step["worker"], step["workload"], step["count"])
        self._machine.hold_grace_periods(held=False)
        outcome: dict[str, Any] = {"made": made, "result": result}
        if self._machine.ties - {result}:
            outcome["ties"] = sorted(self._machine.ties)
        if result == KILLED:
            outcome["signal"] = _SIGKILL
        return outcome

    def _free(self, step: dict[str, Any]) -> dict[str, Any]:
        return {"result": self._machine.free(step["worker"])}

    def _kill(self, step: dict[str, Any]) -> dict[str, Any]:
        self._machine.kill(step["worker"])
        return {}

    def _move(self, step: dict[str, Any]) -> dict[str, Any]:
        self._machine.move(step["worker"], step["group"])
        return {}

    def _dropcaches(self, _step: dict[str, Any]) -> dict[str, Any]:
        self._machine.drop_caches()
        return {}

    def _unmount(self, _step: dict[str, Any]) -> dict[str, Any]:
        self._machine.unmount()
        return {}

    def _mount(self, _step: dict[str, Any]) -> dict[str, Any]:
        self._machine.mount()
        return {}

    def _sleep(self, step: dict[str, Any]) -> dict[str, Any]:
        self._machine.clock.advance(step["milliseconds"] * 1000)
        return {}


_OUTCOMES = frozenset(
    {"result", "failed_call", "made", "signal", "entries", "mode", "size", "nlink"}
    | {"second_recording"}
)
