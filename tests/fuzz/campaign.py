"""Feed one reader with many inputs, and watch it: errors that nobody promised, hangs, growth."""

from __future__ import annotations

import ctypes
import gc
import resource
import signal
import time
from asyncio import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fuzz.mutator import Mutator

if TYPE_CHECKING:
    from types import FrameType

    from typing_extensions import Self

    from tests.fuzz.reader import Read, Reader

__all__ = ["PART", "Finding", "Result", "feed"]

#: Inputs of one part, which can be had again alone.
PART = 1000
PATIENCE_SECONDS = 5.0
#: What a reader may have more of at its end than after its first parts.
MOST_GROWTH = 8 << 20
_WARM_PARTS = 20
_MOST_FINDINGS = 20


class _TooLongError(BaseException):
    """An input that is still read after PATIENCE_SECONDS."""


@dataclass(frozen=True)
class Finding:
    """What a reader did that it should not have; by *what* and *where* the same thing is known."""

    reader: str
    what: str
    where: str
    part: int
    data: bytes

    def __str__(self) -> str:
        shown = repr(self.data) if len(self.data) < 2000 else f"{self.data[:2000]!r}..."
        return f"{self.reader}, part {self.part}: {self.what} at {self.where}\n  {shown}"


@dataclass
class Result:
    """How one reader fared. Units: seconds, bytes."""

    reader: str
    inputs: int = 0
    taken: int = 0  # as values; the others with an error that is promised
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_part: int = 0
    growth: int = 0
    descriptors: int = 0
    findings: list[Finding] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "findings": [str(one) for one in self.findings]}


def feed(
    name: str,
    reader: Reader,
    seed: int,
    *,
    inputs: int | None = None,
    seconds: float | None = None,
    only_part: int | None = None,
) -> Result:
    """Feed *reader* with so many *inputs*, or for so many *seconds*; or with one part alone."""
    result = Result(name)
    mutator = Mutator(reader, f"{seed}/{name}")
    before = _nr_descriptors()
    warm = 0
    with _Feeder(name, reader, result) as feeder:
        began = time.perf_counter()
        part = only_part or 0
        while True:
            mutator.seek(part)
            feeder.feed(
                mutator, part, PART if inputs is None else min(PART, inputs - result.inputs)
            )
            result.seconds = time.perf_counter() - began
            part += 1
            if part == _WARM_PARTS:
                warm = _resident()
            over = result.seconds >= (seconds or 0) if inputs is None else result.inputs >= inputs
            if over or only_part is not None or len(result.findings) >= _MOST_FINDINGS:
                break
        result.growth = _resident() - warm if warm else 0
    result.descriptors = _nr_descriptors() - before
    if result.growth > MOST_GROWTH:
        result.findings.append(Finding(name, f"grew by {result.growth} bytes", "", part, b""))
    if result.descriptors > 0:
        what = f"{result.descriptors} descriptors are left"
        result.findings.append(Finding(name, what, "", part, b""))
    return result


class _Feeder:
    """One reader at work, opened anew whenever it has failed."""

    def __init__(self, name: str, reader: Reader, result: Result) -> None:
        self._name = name
        self._reader = reader
        self._result = result
        self._known: set[tuple[str, str]] = set()
        self._opened = ExitStack()
        self._read: Read
        self._began = 0.0

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, 1, 1)
        self._read = self._opened.enter_context(self._reader.open())
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        self._opened.close()

    def feed(self, mutator: Mutator, part: int, nr: int) -> None:
        """Feed *nr* inputs."""
        result, errors = self._result, self._reader.errors
        for _ in range(nr):
            data = mutator()
            self._began = start = time.perf_counter()
            try:
                self._read(data)
                result.taken += 1
            except errors:
                pass
            except (Exception, CancelledError, _TooLongError) as error:  # noqa: BLE001 - what is looked for
                self._note(error, part, data)
            self._began = 0.0
            took = time.perf_counter() - start
            if took > result.slowest:
                result.slowest, result.slowest_part = took, part
        result.inputs += nr

    def _note(self, error: BaseException, part: int, data: bytes) -> None:
        what, where = type(error).__name__, _place(error)
        if (what, where) not in self._known:
            self._known.add((what, where))
            said = f"{what}: {error}"[:300]
            self._result.findings.append(Finding(self._name, said, where, part, data))
        with suppress(Exception):  # what has failed may not be whole any more
            self._opened.close()
        self._read = self._opened.enter_context(self._reader.open())

    def _look(self, _: int, __: FrameType | None) -> None:
        """Break off an input that takes too long: this costs nothing until then."""
        if self._began and time.perf_counter() - self._began > PATIENCE_SECONDS:
            self._began = 0.0
            raise _TooLongError


def _nr_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _resident() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free is no growth
    return (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        * resource.getpagesize()
    )


def _place(error: BaseException) -> str:
    """Say where in the package an error came from: the innermost line of ours."""
    place, frame = "", error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        if "kmem_harness" in code.co_filename or not place:
            place = f"{Path(code.co_filename).name}:{frame.tb_lineno} {code.co_name}"
        frame = frame.tb_next
    return place
