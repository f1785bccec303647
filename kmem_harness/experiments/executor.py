"""Have jobs done by worker processes of this machine. Knows jobs and processes; knows no plans.

Each worker is a process of its own that makes one run after the other, and ends with us: its input
ends then. A worker that dies in the middle of a run has that run made again by another.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kmem_harness.core.errors import KmemHarnessError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.experiments.plan import Job

__all__ = ["Executor", "LocalExecutor", "RunImpossibleError", "RunLostError"]

#: Once lost with its worker, a run is made again this often.
ATTEMPTS = 3
_GOODBYE_SECONDS = 10.0


class RunImpossibleError(KmemHarnessError):
    """A run cannot be made at all, on this worker or on any: what is missing is in the message."""


class RunLostError(KmemHarnessError):
    """A run took its worker with it, again and again."""


class Executor(Protocol):
    """Whoever has jobs done."""

    @property
    def slots(self) -> int:
        """How many runs are made at once."""

    def submit(self, job: Job) -> None:
        """Have *job* done."""

    def next_result(self, timeout: float) -> dict[str, Any] | None:
        """Wait for what ``run_once`` gave for some job, ``None`` if there is none yet.

        Raises: RunImpossibleError, RunLostError.
        """

    def close(self) -> None:
        """End all workers and what they run."""


@dataclass
class _Task:
    job: Job
    attempts: int = 0


class LocalExecutor:
    """Worker processes of this machine."""

    def __init__(self, slots: int) -> None:
        """Start *slots* workers, each when there is work for it."""
        self.slots = slots
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[dict[str, Any] | KmemHarnessError] = queue.SimpleQueue()
        self._closing = False
        self._lock = threading.Lock()
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._threads = [
            threading.Thread(target=self._serve, name=f"kmem-worker-{number}", daemon=True)
            for number in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pids(self) -> list[int]:
        """The worker processes."""
        with self._lock:
            return list(self._processes)

    def submit(self, job: Job) -> None:
        """Have *job* done by the next worker that is free."""
        self._tasks.put(_Task(job))

    def next_result(self, timeout: float) -> dict[str, Any] | None:
        """Wait for a result. Raises: RunImpossibleError, RunLostError."""
        try:
            result = self._results.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(result, KmemHarnessError):
            raise result
        return result

    def close(self) -> None:
        """End the workers and, with them, their harnesses and all that runs in those."""
        self._closing = True
        for _ in self._threads:
            self._tasks.put(None)
        with self._lock:
            processes = list(self._processes.values())
        for process in processes:
            process.kill()
        for thread in self._threads:
            thread.join(_GOODBYE_SECONDS)

    def _serve(self) -> None:
        worker: subprocess.Popen[str] | None = None
        while (task := self._tasks.get()) is not None and not self._closing:
            if worker is None or worker.poll() is not None:
                worker = self._start()
            answer = self._ask(worker, task.job.as_dict())
            if answer is None:
                self._collect(worker)
                worker = None
                self._again(task)
            elif "error" in answer:
                message = f"run {dict(task.job.params)} cannot be made: {answer['error']}"
                self._results.put(RunImpossibleError(message))
            else:
                self._results.put(answer)
        if worker is not None:
            self._collect(worker)

    def _again(self, task: _Task) -> None:
        task.attempts += 1
        if self._closing:
            return
        if task.attempts < ATTEMPTS:
            self._tasks.put(task)
        else:
            message = f"run {dict(task.job.params)} lost its worker {ATTEMPTS} times in a row"
            self._results.put(RunLostError(message))

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kmem_harness.experiments.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to deal with
        )
        with self._lock:
            self._processes[process.pid] = process
        return process

    @staticmethod
    def _ask(worker: subprocess.Popen[str], job: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give a job to a worker and wait; ``None`` if it died."""
        if worker.stdin is None or worker.stdout is None:
            return None
        try:
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except OSError:
            return None
        if not line.endswith("\n"):
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _collect(self, worker: subprocess.Popen[str]) -> None:
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it was told and never read
                    pipe.close()
        try:
            worker.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        with self._lock:
            self._processes.pop(worker.pid, None)
