"""Tell how an experiment goes: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Teller", "time_left"]

_LINE_SECONDS = 10.0


class Teller:
    """Writes to standard error; what the command found goes to standard output."""

    def __init__(self, name: str) -> None:
        """Tell about the experiment *name*."""
        self._name = name
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[more]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(name, total=None, more="")
        self._began = time.monotonic()
        self._at_first: int | None = None
        self._told = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        if self._progress is not None:
            self._progress.stop()

    def progress(self, done: int, expected: int, failed: int) -> None:
        """Tell that *done* of about *expected* runs are there."""
        now = time.monotonic()
        if self._at_first is None:  # what was there before we began tells nothing of our pace
            self._at_first = done
            if done:
                self._console.print(f"{self._name}: {done} runs are there already")
        left = time_left(done - self._at_first, expected - done, now - self._began)
        more = ", ".join(filter(None, [f"{failed} did not pass" if failed else "", left]))
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=expected, more=more)
        elif done and now - self._told >= _LINE_SECONDS:
            self._told = now
            self._console.print(f"{self._name}: {done} of about {expected} runs; {more}")


def time_left(made: int, to_make: int, seconds: float) -> str:
    """Say about how long *to_make* runs take, if *made* took *seconds*."""
    if made <= 0:
        return ""
    left = to_make * seconds / made
    minutes, rest = divmod(round(left), 60)
    return f"about {minutes} min {rest} s left" if minutes else f"about {rest} s left"
