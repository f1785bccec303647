"""What a reader is: something that takes what somebody else wrote. Knows no particular one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmem_harness.core.errors import KmemHarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

__all__ = ["Read", "Reader", "of_bytes", "of_file", "of_text"]

#: Reads one input.
if TYPE_CHECKING:
    Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Reader:
    """One reader, and what it is fed with.

    :param open: gives what reads one input, for as long as its context lasts.
    :param examples: valid inputs, of which others are made.
    :param words: what means something to it.
    :param errors: what it may raise; anything else is a finding.
    :param is_json: whether values of a JSON tree are worth being put in each other's place.
    :param share: how many inputs it is due, against the others: less where one takes long.
    """

    open: Callable[[], AbstractContextManager[Read]]
    examples: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    errors: tuple[type[BaseException], ...] = (KmemHarnessError,)
    is_json: bool = False
    share: float = 1.0


def of_bytes(read: Callable[[bytes], object]) -> Callable[[], AbstractContextManager[Read]]:
    """Hand the input over as it is."""

    @contextmanager
    def opened() -> Iterator[Read]:
        yield read

    return opened


def of_text(read: Callable[[str], object]) -> Callable[[], AbstractContextManager[Read]]:
    """Hand the input over as a command line's words come: what is no UTF-8 is escaped."""
    return of_bytes(lambda data: read(data.decode("utf-8", "surrogateescape")))


def of_file(read: Callable[[str], object]) -> Callable[[], AbstractContextManager[Read]]:
    """Hand over the path of a file that holds the input."""

    @contextmanager
    def opened() -> Iterator[Read]:
        fd = os.memfd_create("fuzz")
        path = f"/proc/self/fd/{fd}"

        def read_file(data: bytes) -> None:
            os.ftruncate(fd, 0)
            os.pwrite(fd, data, 0)
            read(path)

        try:
            yield read_file
        finally:
            os.close(fd)

    return opened
