"""Own many boxes of one controller; run by ``group.py`` with one argument, JSON.

    {"kernel": "5.10", "boxes": [{"command": [], "kmem_limit": 8192, "kinds": [], "events": PATH, "report": PATH}]}

Writes one line of JSON once all are up: the pids of the controller and of each box's guard and
init. Then it waits for each, writes its report, with its "status", and ends.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmem_harness import Harness
from kmem_harness.controller.owner.client import ControllerDiedError

if TYPE_CHECKING:
    from kmem_harness import Box

OWN_FAILURE = 125


def start(harness: Harness, options: dict[str, Any]) -> Box:
    events = os.open(options["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        return harness.run(
            options["command"],
            kmem_limit=options["kmem_limit"],
            kinds=options["kinds"],
            pids_max=200,
            events=events,
        )
    finally:
        os.close(events)


def see_through(box: Box, path: str) -> None:
    try:
        status = int(box.wait())
    except ControllerDiedError:
        status = OWN_FAILURE
    Path(path).write_text(json.dumps({**box.report(), "status": status}))


def main() -> None:
    orders = json.loads(sys.argv[1])
    with (
        Harness(orders["kernel"]) as harness,
        ThreadPoolExecutor(len(orders["boxes"])) as threads,
    ):
        boxes = list(threads.map(lambda one: start(harness, one), orders["boxes"]))
        pids = [[box.running.guard_pid, box.running.init_pid] for box in boxes]
        sys.stdout.write(json.dumps({"controller": harness.controller.pid, "boxes": pids}) + "\n")
        sys.stdout.flush()
        reports = [one["report"] for one in orders["boxes"]]
        list(threads.map(see_through, boxes, reports))


if __name__ == "__main__":
    main()
