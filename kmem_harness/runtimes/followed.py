"""Follow a container's log to its true end. Knows nothing of boxes.

An engine (seen with dockerd 20.10) loses what is written around the moment a log begins to be
followed, if the container ends right then: one plain container in thirty, and two in three of ours,
whose command starts only when its start has returned. The log itself is whole, so that what is
missing is read from it once more.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import docker.errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker.types import CancellableStream
    from typing_extensions import Self

__all__ = ["Followed"]


class Followed:
    """docker-py's stream of a followed log, and behind it what that has left out."""

    def __init__(
        self, stream: CancellableStream, read_again: Callable[[], CancellableStream]
    ) -> None:
        """Give *stream*, then what *read_again*, the log without following it, has beyond that."""
        self._stream = stream
        self._chunks = self._all(read_again)
        self._ahead: list[bytes] = []
        self._reading = threading.Lock()
        self._closed = False

    def __iter__(self) -> Self:
        """Be an iterator over chunks of the log, as bytes."""
        return self

    def __next__(self) -> bytes:
        """Give the next chunk."""
        with self._reading:
            if self._ahead:
                return self._ahead.pop(0)
            return next(self._chunks)

    next = __next__

    def read_ahead(self) -> None:
        """Read all there is before the container is removed; it must have ended."""
        if self._reading.acquire(blocking=False):  # else somebody is at it
            try:
                self._ahead.extend(self._chunks)
            finally:
                self._reading.release()

    def close(self) -> None:
        """Read no more."""
        self._closed = True
        self._stream.close()

    def _all(self, read_again: Callable[[], CancellableStream]) -> Iterator[bytes]:
        given = 0
        for chunk in self._stream:
            given += len(chunk)
            yield chunk
        if self._closed:
            return
        try:
            for chunk in read_again():
                if given < len(chunk):
                    yield chunk[given:]
                given = max(given - len(chunk), 0)
        except docker.errors.NotFound:  # removed by its engine at its end
            return
