"""Run a loop until something is so, and ask about calls of this process as a notification tells of them."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from typing import TYPE_CHECKING

from kmem_harness.controller.audit.name_watch import NameWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.audit.looks import Looks
    from kmem_harness.controller.loop import Loop

__all__ = ["Caller", "children", "run_until"]

_AT_FDCWD = 0xFFFFFF9C
#: Paths are kept here one after the other: processes that we fork have them, too.
_PATHS = mmap.mmap(-1, 1 << 20)
_SLOT = 512


def children() -> set[str]:
    """Name the children of this process."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
        return set(file.read().split())


def run_until(loop: Loop, is_true: Callable[[], object], seconds: float = 10.0) -> None:
    """Run *loop* until *is_true*, looked at every 5 ms."""
    end = time.monotonic() + seconds

    def look() -> None:
        if is_true():
            loop.stop()
        else:
            assert time.monotonic() < end, "it took too long"
            loop.call_later(0.005, look)

    loop._running = True
    look()
    loop.run()


class Caller:
    """Ask a watch about calls of this process, or of *tid*, whose memory is like ours."""

    def __init__(self, loop: Loop, looks: Looks, tid: int = 0) -> None:
        self._loop = loop
        self._tid = tid or os.getpid()
        self.asker = looks.enter(lambda: None)
        self.watch = NameWatch(looks, self.asker)
        self._at = 0

    def about_to(self, syscall: str, path: os.PathLike[str] | str, at: int = _AT_FDCWD) -> None:
        self._at = (self._at + _SLOT) % len(_PATHS)
        text = os.fsencode(path) + b"\0"
        _PATHS[self._at : self._at + len(text)] = text
        address = ctypes.addressof(ctypes.c_char.from_buffer(_PATHS, self._at))
        words = [at, address] if syscall.endswith("at") else [address]
        if syscall == "rename":
            words = [0, address]
        arguments = [*words, *[0] * (6 - len(words))]
        looked: list[bool] = []
        notification = (1, self._tid, 0, 0, 0, 0, *arguments)
        if not self.watch.watch(self._tid, syscall, notification, lambda: looked.append(True)):
            run_until(self._loop, lambda: looked)

    def seen(self) -> tuple[int, int, int]:
        """Give what was made, what is gone, and what may be."""
        while (found := self.watch.settle()) is None:
            time.sleep(0.01)
            self.watch._looks._hear()  # as the loop does
        return found.made, found.gone, found.unsure
