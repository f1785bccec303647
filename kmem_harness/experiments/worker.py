"""A worker process: makes the runs it is told of, one JSON line each way, until its input ends.

``python -m kmem_harness.experiments.worker``. Should whoever started it die, even by SIGKILL, its
input ends in the middle of a run: it dies at once, and its harness ends the boxes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.experiments.once import run_once

__all__ = ["main"]

_EXIT_ORPHANED = 3


def main() -> None:
    """Serve until the input ends."""
    # What a run prints by mistake shall not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        answers.write(json.dumps(_answer(jobs.get())) + "\n")
        answers.flush()


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    try:
        return run_once(job)
    except (KmemHarnessError, OSError) as error:
        remedy = getattr(error, "remedy", "")
        return {"error": f"{error}{f'; what to do: {remedy}' if remedy else ''}"}


def _listen(jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(_EXIT_ORPHANED)


if __name__ == "__main__":
    main()
