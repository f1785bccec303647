"""Run a command once for a sweep, in a box of its own, and say how that went."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import KmemHarnessError
from kmem_harness.faults.outcome import Outcome, Site
from kmem_harness.logged import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import IO

    from kmem_harness.harness import Harness

__all__ = ["BoxRuns", "outcome_of"]

_SAID = 200
#: How long a run may take: this much, and so many times what the first one took.
_TIMEOUT_SECONDS = 2.0
_TIMES_THE_FIRST = 10.0


class BoxRuns:
    """Runs of one command. Any number of threads may run it at once.

    Each run has no input and a TMPDIR of its own, which is removed after it.
    """

    def __init__(
        self, harness: Harness, command: Sequence[str], timeout: float | None, **options: Any
    ) -> None:
        """Run *command* in *harness*, whose ``run`` takes *options*, for *timeout* seconds.

        With ``None``, 2 s and ten times what the first run took.
        """
        self._harness = harness
        self._command = command
        self._options = options
        self._timeout = timeout
        self._first: float | None = None

    def __call__(self, rules: tuple[str, ...]) -> Outcome:
        """Run it once under fault *rules*. Raises: what ``Harness.run`` raises."""
        timeout = self._timeout
        if timeout is None and self._first is not None:
            timeout = _TIMEOUT_SECONDS + _TIMES_THE_FIRST * self._first
        with ExitStack() as stack:
            output = stack.enter_context(tempfile.TemporaryFile())
            errors = stack.enter_context(tempfile.TemporaryFile())
            own = tempfile.mkdtemp(prefix="kmem-sweep-")
            stack.callback(shutil.rmtree, own, ignore_errors=True)
            began = time.monotonic()
            box = self._harness.run(
                self._command,
                faults=rules,
                look_at_end=True,
                stdin=DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, "TMPDIR": own},
                **self._options,
            )
            with box:
                timed_out = False
                try:
                    box.wait(timeout)
                except TimeoutError:
                    timed_out = True
                    box.kill("timeout")
                seconds = time.monotonic() - began
                report = box.report()
            if (report["ended"] or {}).get("reason") == "harness":
                why = "; ".join(report["partial"]) or "the controller died"
                raise KmemHarnessError(f"a run of the sweep was ended by the harness: {why}")
            output.seek(0)
            printed = _digest([output])
            left = _digests_below(own)
            errors.seek(max(errors.seek(0, os.SEEK_END) - 4096, 0))
            said = errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        if self._first is None:
            self._first = seconds
        log("debug", "run.ended", rule=rules[0], exit_code=report["exit_code"], seconds=seconds)
        return outcome_of(
            report,
            timed_out=timed_out,
            seconds=seconds,
            output=printed,
            files=left,
            said=said[:_SAID],
        )


def _digest(files: Iterable[IO[bytes]]) -> str:
    digest = hashlib.sha256()
    for file in files:
        while block := file.read(1 << 16):
            digest.update(block)
    return digest.hexdigest()[:16]


def _digests_below(folder: str) -> dict[str, str] | None:
    """Tell one state of each file below *folder* from another; ``None`` if it cannot be read."""
    found: dict[str, str] = {}
    try:
        for path in sorted(Path(folder).rglob("*")):
            name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
            if path.is_symlink():
                found[name] = f"link {os.fsencode(path.readlink())!r}"
            elif path.is_dir():
                found[name] = "folder"
            elif path.is_file():
                found[name] = _digest_of(path)
            else:
                found[name] = "special"
    except OSError:
        return None
    return found


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _digest([file])
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _left(report: dict[str, Any], at_end: dict[str, Any]) -> tuple[str, ...] | None:
    """Name who was alive at the end, and not just about to end."""
    if "others" not in at_end:
        return None
    return tuple(at_end["others"]) if report.get("left_behind", True) else ()


def outcome_of(report: dict[str, Any], **more: Any) -> Outcome:
    """Read a run's outcome off its box's report; the first of the box's rules is the sweep's."""
    faults = report["faults"]
    at_end = faults.get("at_end") or {}
    swept = faults["rules"][0]
    injected = [card for card in report["refusals"]["cards"] if card.get("rule") == swept["rule"]]
    first = injected[0] if injected else None
    return Outcome(
        status=report["exit_code"],
        signal=report["signal"],
        charges=swept["matched"],
        failed=swept["failed"],
        site=Site(first["comm"], first["syscall"], first["kind"]) if first else None,
        nth=first["nth_of_call"] if first else 0,
        holds=at_end.get("holds"),
        others=_left(report, at_end),
        cards=tuple(injected),
        **more,
    )
