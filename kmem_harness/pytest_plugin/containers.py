"""Start containers under one memcg, for a test or for many; end them together."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from kmem_harness.pytest_plugin.verdicts import cannot_enforce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmem_harness.harness import Box, Harness, MemcgHandle
    from kmem_harness.pytest_plugin.records import Record
    from kmem_harness.pytest_plugin.settings import Settings

__all__ = ["ContainerFactory"]


def _seconds(timeout: float | str) -> float | None:
    """Read a timeout, as the option's text or as a number. Raises: ConfigurationError."""
    from kmem_harness.core.errors import ConfigurationError
    from kmem_harness.pytest_plugin.reading import parse_seconds

    if isinstance(timeout, (int, float)) and timeout >= 0:
        return float(timeout) or None
    try:
        return parse_seconds(str(timeout))
    except ValueError as error:
        raise ConfigurationError(f"timeout: {error}") from None


class ContainerFactory:
    """Start containers under one memcg; all of them end with it."""

    def __init__(self, harness: Harness, record: Record, settings: Settings) -> None:
        """Start them in *harness*, below the memcg of *record*, which they are entered in."""
        self._harness = harness
        self._record = record
        self._settings = settings
        self._ends = ExitStack()
        self._keeper = None
        if settings.keep != "never":
            from kmem_harness.pytest_plugin.keeping import Keeper

            self._keeper = Keeper(settings.keep_dir, record)

    def __repr__(self) -> str:
        """Show where they live, and how many there are."""
        return f"<kmem_container below {self.memcg.path}: {len(self.boxes)} started>"

    @property
    def memcg(self) -> MemcgHandle:
        """The memcg they live under."""
        return self._record.memcg

    @property
    def boxes(self) -> list[Box]:
        """All of them, in the order they were started in."""
        return self._record.boxes

    def __call__(
        self,
        command: Sequence[str] = (),
        image: str | None = None,
        kmem_limit: str | int | None = None,
        timeout: float | str | None = None,
        **options: Any,
    ) -> Box:
        """Start *command*; *kmem_limit* is this container's own, below the test's.

        With *image*, or where ``--kmem-runtime`` says so, it is a Docker container, whose image may
        have a command of its own. After *timeout*, in seconds or such as "500ms" (``--kmem-timeout``),
        it is ended, and the test fails.
        Further options are those of ``Harness.run``. Raises: what that raises; the test is skipped
        (with ``--kmem-require``, failed) where this host cannot enforce the limit.
        """
        from kmem_harness.core.errors import UnsupportedHostError

        __tracebackhide__ = True
        seconds = self._settings.timeout if timeout is None else _seconds(timeout)
        limit = self._record.limit
        unlimited = limit.size is None and kmem_limit is None
        mode = "observe" if unlimited and limit.counted else limit.mode
        options = {"mode": mode, "kinds": limit.kinds, **options}
        number = len(self.boxes) + 1
        options["faults"] = (*self._record.rules_for(number), *options.get("faults", ()))
        if self._record.swept is not None:
            options["look_at_end"] = True
        options.setdefault("runtime", "docker" if image else self._settings.runtime)
        if options["runtime"] == "docker":
            image = image or self._settings.image
        child = self.memcg.child(f"c{number}", kmem_limit)
        with ExitStack() as opened:
            if self._keeper is not None and "events" not in options:
                options["events"] = self._keeper.open_refusals(number)
                opened.callback(os.close, options["events"])
            try:
                box = self._harness.run(command, image=image, memcg=child, **options)
            except UnsupportedHostError as error:
                cannot_enforce(error, require=self._settings.require)
        self.boxes.append(box)
        if options["runtime"] != "local" and self._record.last_words is None:
            from kmem_harness.pytest_plugin.outputs import LastWords

            self._record.last_words = LastWords.of(self._harness)
        self._ends.callback(box.close)
        if seconds is not None:
            from kmem_harness.pytest_plugin.deadlines import Deadline

            deadline = Deadline(seconds, partial(self._time_out, box, seconds))
            self._ends.callback(deadline.cancel)
        return box

    def close(self, *, failed: bool) -> None:
        """End every container, the last one first, whatever the end of another brings.

        What they leave is kept if that was asked for, by whether their test *failed*.
        """
        keeper = self._keeper
        keep = self._settings.keep == "always" or (self._settings.keep == "failed" and failed)
        with ExitStack() as each:
            if keeper is not None and self.boxes:
                each.callback(keeper.finish if keep else keeper.drop)
            each.push(self._ends.pop_all())
            if keeper is not None and keep:
                self._record.kept = str(keeper.folder) if self.boxes else None
                for box in self.boxes:
                    each.callback(keeper.leave, box)

    def _time_out(self, box: Box, seconds: float) -> None:
        if box.status is not None:
            return
        # First of all: whoever waits for the container goes on as soon as it is dead.
        self._record.timed_out[box] = seconds
        box.kill("timeout")
        if box.status is None or box.status.signal != signal.SIGKILL:  # it had just ended by itself
            del self._record.timed_out[box]
