"""The processes a tree knows, and where they live. Moving one moves no charges (K83).

Knows pids, threads and memcgs; starts and kills nothing.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from kmem_harness.core.errors import kernel_error

if TYPE_CHECKING:
    from kmem_harness.core.memcg import Memcg

__all__ = ["Process", "TaskTable", "parse_pid"]

_PID = re.compile(r"[+]?(0[xX][0-9a-fA-F]+|[0-9]+)")
_LONGEST = 10  # digits of the largest
_INT_MAX = (1 << 31) - 1


class Process:
    """A thread group: its pid, its threads, and the memcg it lives in."""

    __slots__ = ("kernel_thread", "memcg", "pid", "threads")

    def __init__(self, pid: int, memcg: Memcg, *, kernel_thread: bool = False) -> None:
        self.pid = pid
        self.memcg = memcg
        self.kernel_thread = kernel_thread
        self.threads: dict[int, Memcg] = {pid: memcg}


class TaskTable:
    """Every live process by pid.

    ``writer`` is the pid of whoever writes control files, for a written ``0``.
    """

    __slots__ = ("_owner", "processes", "writer")

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self.writer: int | None = None
        self._owner: dict[int, Process] = {}

    def add(self, pid: int, memcg: Memcg, *, kernel_thread: bool = False) -> Process:
        """Take a new process in; charging for it is the caller's business."""
        process = Process(pid, memcg, kernel_thread=kernel_thread)
        self.processes[pid] = process
        self._owner[pid] = process
        if not kernel_thread:
            memcg.tasks[pid] = None
        return process

    def add_thread(self, pid: int, tid: int) -> None:
        """Take in another thread of process *pid*."""
        process = self.processes[pid]
        process.threads[tid] = process.memcg
        self._owner[tid] = process
        process.memcg.tasks[tid] = None

    def exit(self, tid: int) -> None:
        """Forget one thread, and the process with its last one."""
        process = self._owner.pop(tid, None)
        if process is None:
            return
        memcg = process.threads.pop(tid)
        memcg.tasks.pop(tid, None)
        if not process.threads:
            self.processes.pop(process.pid, None)

    def move_process(self, pid: int, memcg: Memcg, *, file: str) -> None:
        """Move a process and all its threads.

        Raises: OSError ESRCH, EINVAL.
        """
        process = self._movable(pid, file)
        for tid in process.threads:
            self._move(process, tid, memcg)
        process.memcg = memcg

    def move_thread(self, tid: int, memcg: Memcg, *, file: str) -> None:
        """Move one thread, as a write to ``tasks`` does.

        Raises: OSError ESRCH, EINVAL.
        """
        process = self._movable(tid, file)
        self._move(process, tid, memcg)
        if tid == process.pid:
            # Later charges go to the group of the thread-group leader (K33).
            process.memcg = memcg

    @staticmethod
    def _move(process: Process, tid: int, memcg: Memcg) -> None:
        process.threads[tid].tasks.pop(tid, None)
        process.threads[tid] = memcg
        memcg.tasks[tid] = None

    def _movable(self, tid: int, file: str) -> Process:
        if tid == 0 and self.writer is not None:
            tid = self.writer
        process = self._owner.get(tid)
        if process is not None and process.kernel_thread:
            why = "a kernel thread cannot be moved"
            raise kernel_error(errno.EINVAL, why, rule="K101", file=file, value=str(tid))
        if process is None:
            why = "there is no such process"
            raise kernel_error(errno.ESRCH, why, rule="K101", file=file, value=str(tid))
        return process

    def pids_in(self, memcg: Memcg) -> list[int]:
        """List the processes with a thread in *memcg*, sorted."""
        return sorted({self._owner[tid].pid for tid in memcg.tasks if tid in self._owner})


def parse_pid(text: str, file: str) -> int:
    """Read the text written to ``cgroup.procs`` or ``tasks``.

    Raises: OSError EINVAL.
    """
    body = text.strip(" \t\n\v\f\r")
    match = _PID.fullmatch(body)
    if match is not None:
        digits = match[1]
        if digits[:2] in {"0x", "0X"}:
            number = int(digits, 16)
        elif digits[0] != "0":
            number = int(digits) if len(digits) <= _LONGEST else -1
        elif set(digits) <= set("01234567"):
            number = int(digits, 8)
        else:
            number = -1
        if 0 <= number <= _INT_MAX:
            return number
    raise kernel_error(errno.EINVAL, "not a process number", rule="K101", file=file, value=text)
