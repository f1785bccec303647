"""Count what there is in a box from outside, over and over at full speed: a program of its own.

Knows procfs; knows nothing of seccomp, cgroups or the harness. Started by ``peak.Peak``, with two
arguments: tasks of a ``namespace PROC_DIRECTORY`` or a ``tree PID``, ``names DIRECTORY`` in it, or
``pipes PID`` has open. It writes ``ready`` after the first scan, scans until its standard input
ends, and then writes one line of JSON.

A scan takes time, and tasks that die early in it and tasks born late in it are both seen, although
they never lived at once. So every task seen in two scans running is alive at the instant between
the two, and ``peak`` is the largest number of those: it never overstates, and a task that stays for
two scans is never missed (in a tree it may be, if its parent dies meanwhile). ``seen`` is the
largest single scan, which may overstate. Threads count, and so do zombies: the kernel still holds
what it keeps for them.
"""

from __future__ import annotations

import gc
import json
import os
import select
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_GONE = (FileNotFoundError, ProcessLookupError)
_LINKS_OF_ONE_THREAD = 3  # st_nlink of /proc/<pid>/task is the number of threads plus two
_FIRST_DIGIT = frozenset("123456789")


def main() -> None:
    """Scan until standard input ends, then report."""
    how, where = sys.argv[1:]
    scan = {
        "namespace": _namespace_scan,
        "tree": _tree_scan,
        "names": lambda directory: lambda: os.listdir(directory),  # noqa: PTH208 - as below
        "pipes": _pipes_scan,
    }[how](where)
    gc.disable()
    with suppress(PermissionError):
        os.nice(-20)  # the bomb must not starve the one who measures it; ordinary users go without
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    peak = seen = scans = 0
    before = set(scan())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    started = last = time.monotonic()
    longest = 0.0
    stopping = False
    while not stopping:  # one more scan after the end of the input: a reading always has one
        stopping = bool(poll.poll(0))
        now = scan()
        moment = time.monotonic()
        longest, last = max(longest, moment - last), moment
        scans += 1
        seen = max(seen, len(now))
        both = set(now)
        if len(now) > peak:
            peak = max(peak, len(both & before))
        before = both
    seconds = time.monotonic() - started
    report = {"peak": peak, "seen": seen, "scans": scans, "seconds": seconds, "longest": longest}
    sys.stdout.write(json.dumps(report) + "\n")


def _namespace_scan(proc: str) -> Callable[[], list[str]]:
    """List the thread ids of one pid namespace, through the procfs mounted in it."""
    os.chdir(proc)

    def scan() -> list[str]:
        tasks = []
        for name in os.listdir():  # noqa: PTH208 - speed is all there is to this function
            if name[0] not in _FIRST_DIGIT:
                continue
            try:
                if os.stat(f"{name}/task").st_nlink == _LINKS_OF_ONE_THREAD:  # noqa: PTH116
                    tasks.append(name)
                else:
                    tasks += os.listdir(f"{name}/task")  # noqa: PTH208
            except _GONE:
                continue
        return tasks

    return scan


def _pipes_scan(process: str) -> Callable[[], list[str]]:
    """List the pipes that one process has open, each once."""
    os.chdir(f"/proc/{process}/fd")

    def scan() -> list[str]:
        pipes = set()
        with suppress(*_GONE):
            for fd in os.listdir():  # noqa: PTH208
                with suppress(*_GONE):
                    pipes.add(os.readlink(fd))  # noqa: PTH115
        return [name for name in pipes if name.startswith("pipe:")]

    return scan


def _tree_scan(root: str) -> Callable[[], list[str]]:
    """List the thread ids of *root* and of all its descendants."""
    os.chdir("/proc")

    def scan() -> list[str]:
        tasks = []
        unread = [root]
        while unread:
            process = unread.pop()
            try:
                threads = os.listdir(f"{process}/task")  # noqa: PTH208
            except _GONE:
                continue
            tasks += threads
            for thread in threads:
                try:
                    with open(f"{process}/task/{thread}/children", "rb", 0) as children:  # noqa: PTH123
                        unread += children.read().decode().split()
                except _GONE:  # noqa: PERF203 - any of them may be gone, and only that one
                    continue
        return tasks

    return scan


if __name__ == "__main__":
    main()
