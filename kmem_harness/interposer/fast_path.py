"""The library that answers trapped calls by itself, and the memory it shares with us.

Knows ``native/fast_path.c``, which says what all of it means; decides nothing. Loaded by a
controller once it is busy, so it costs a start nothing.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kmem_harness.interposer.listener import NOTIFICATION

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CHARGES",
    "COUNTER_WORDS",
    "DEPTH",
    "FORKS",
    "IN_VAIN",
    "LIBRARY",
    "NUMBERS",
    "TESTS",
    "Account",
    "FastPath",
]

LIBRARY = os.path.join(os.path.dirname(__file__), "bin", "kmem-fast-path.so")

#: How much there is room for, as in the C source.
NUMBERS, CHARGES, FORKS, TESTS, DEPTH = 512, 32, 8, 16, 32
_TOUCHED = _CHANGES = 1024
_NOBODY = -1
#: How a call was taken that is answered nowhere but with us, whatever room there is.
IN_VAIN = 2
_READABLE = 1  # POLLIN
_TRIPLE = 3
_AT_FIRST = 8
_NR_FIGURES = 5


class _Counter(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("usage", "max_usage", "limit", "charged", "is_listed")
    ]


#: A counter begins with usage, max_usage and limit, and has so many words in all.
COUNTER_WORDS = ctypes.sizeof(_Counter) // 8


class _Charged(ctypes.Structure):
    _fields_ = [("counter", ctypes.c_int64), ("nbytes", ctypes.c_int64)]


class _Test(ctypes.Structure):
    _fields_ = [
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("argument", ctypes.c_uint32),
        ("any", ctypes.c_uint32),
    ]


class _Charge(ctypes.Structure):
    _fields_ = [
        ("nbytes", ctypes.c_int64),
        ("made", ctypes.c_uint32),
        ("first_test", ctypes.c_uint8),
        ("nr_tests", ctypes.c_uint8),
        ("left", ctypes.c_uint8),
        ("copies_memory", ctypes.c_uint8),
    ]


class _Fork(ctypes.Structure):
    _fields_ = [("until", ctypes.c_int64), ("tid", ctypes.c_int32), ("of", ctypes.c_int32)]


class Account(ctypes.Structure):
    """One box's account over there."""

    _fields_ = [
        ("lent", ctypes.c_int64),
        ("beyond", ctypes.c_int64),
        ("nr_counters", ctypes.c_uint32),
        ("kmem", ctypes.c_uint32),
        ("vanished", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("counters", ctypes.c_uint16 * DEPTH),
        ("prices", ctypes.c_uint8 * NUMBERS),
        ("charges", _Charge * (CHARGES + FORKS)),
        ("forks", _Fork * FORKS),
        ("tests", _Test * TESTS),
    ]


_ACCOUNT_WORDS = ctypes.sizeof(Account) // 8


class _Poll(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


class _Notification(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * NOTIFICATION.size)]


class _Shared(ctypes.Structure):
    _fields_ = [
        ("fds", ctypes.c_void_p),
        ("owners", ctypes.c_void_p),
        ("accounts", ctypes.c_void_p),
        ("counters", ctypes.c_void_p),
        ("charged", ctypes.c_void_p),
        ("ready", ctypes.c_void_p),
        ("handed", ctypes.c_void_p),
        ("nr_fds", ctypes.c_uint32),
        ("is_told", ctypes.c_uint32),
        ("nr_changes", ctypes.c_uint32),
        ("nr_touched", ctypes.c_uint32),
        ("nr_charged", ctypes.c_uint32),
        ("last_fd", ctypes.c_int32),
        ("nr_vanished", ctypes.c_uint32),
        ("changes", ctypes.c_int32 * (_TRIPLE * _CHANGES)),
        ("touched", ctypes.c_int32 * (_TRIPLE * _TOUCHED)),
        ("slots", ctypes.c_uint16 * _TOUCHED),
    ]


class FastPath:
    """The library, and the memory that it works on. Numbers of accounts and counters are ours."""

    def __init__(self, others_fd: int) -> None:
        """Wait for *others_fd*, too, which is no listener: it comes before those that are ready with it.

        Raises: OSError where the library cannot be loaded, or is not of these sources.
        """
        library = ctypes.CDLL(LIBRARY)
        sizes = (ctypes.c_uint32 * 2)()
        with suppress(AttributeError):
            library.kmem_sizes(sizes)
        if list(sizes) != [ctypes.sizeof(_Shared), ctypes.sizeof(Account)]:
            raise OSError(0, "was built from other sources; install the package again", LIBRARY)
        self._wait = library.kmem_wait
        self._wait.argtypes = (ctypes.c_void_p, ctypes.c_int64)
        self._decide = library.kmem_decide
        self._decide.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p)
        self._shared = shared = _Shared()
        self._address = ctypes.addressof(shared)
        first = _Shared.nr_changes.offset
        self._figures = memoryview(shared).cast("B")[first : first + _NR_FIGURES * 4].cast("i")
        self._changes = memoryview(shared.changes).cast("B").cast("i")
        self._touched = memoryview(shared.touched).cast("B").cast("i")
        self._arrays: dict[str, Any] = {}
        self._fds: list[int] = []
        self._make_room("accounts", Account, _AT_FIRST)
        self.make_counter(0)
        self.watch(others_fd)

    # -- what is waited for ----------------------------------------------------------------

    def watch(self, fd: int) -> None:
        """Wait for *fd*, too."""
        at = len(self._fds)
        self._fds.append(fd)
        for name, of in (
            *(("fds", _Poll), ("owners", ctypes.c_int32)),
            *(("ready", ctypes.c_int32 * _TRIPLE), ("handed", _Notification)),
        ):
            self._make_room(name, of, at + 1)
        self._arrays["fds"][at] = _Poll(fd, _READABLE, 0)
        self._arrays["owners"][at] = _NOBODY
        self._shared.nr_fds = at + 1

    def own(self, fd: int, account: int) -> None:
        """Take the calls of *fd* for this account's."""
        self._arrays["owners"][self._fds.index(fd)] = account

    def forget(self, fd: int) -> None:
        """Wait for *fd* no more: the last of them takes its place."""
        at, last = self._fds.index(fd), len(self._fds) - 1
        for name in ("fds", "owners"):
            self._arrays[name][at] = self._arrays[name][last]
        self._fds[at] = self._fds[last]
        self._fds.pop()
        self._shared.nr_fds = last

    # -- what is shared --------------------------------------------------------------------

    def account(self, number: int) -> Account:
        """Give the account of this number; not for keeping, for there may be more of them soon."""
        self._make_room("accounts", Account, number + 1)
        found: Account = self._arrays["accounts"][number]
        return found

    def empty_account(self, number: int) -> Account:
        """Give the account of this number as if it were new."""
        account = self.account(number)
        ctypes.memset(ctypes.addressof(account), 0, ctypes.sizeof(account))
        return account

    def lend(self, account: int, beyond: int) -> None:
        """Have calls of an account answered, and new peaks let by up to *beyond* bytes."""
        words = self._account_words
        at = account * _ACCOUNT_WORDS
        words[at + 1] = beyond
        words[at] = 1

    def withdraw(self, account: int) -> None:
        """Have none of them answered until it is lent again."""
        self._account_words[account * _ACCOUNT_WORDS] = 0

    @property
    def counters(self) -> memoryview:
        """The counters: usage, max_usage, limit and two words of each in turn. Not for keeping."""
        return self._counters

    def make_counter(self, number: int) -> None:
        """Have room for a counter of this number."""
        self._make_room("counters", _Counter, number + 1)
        self._make_room("charged", _Charged, number + 1)

    def _make_room(self, name: str, of: Any, nr: int) -> None:
        """Have room for *nr* of these; what is there stays."""
        before = self._arrays.get(name)
        if before is not None and nr <= len(before):
            return
        array = (of * max(nr, _AT_FIRST, 2 * len(before or ())))()
        if before is not None:
            ctypes.memmove(array, before, ctypes.sizeof(before))
        self._arrays[name] = array
        setattr(self._shared, name, ctypes.addressof(array))
        words = memoryview(array).cast("B")
        if name == "accounts":
            self._account_words = words.cast("q")
        elif name == "counters":
            self._counters = words.cast("q")
        elif name == "charged":
            self._charged = words.cast("q")
        elif name == "ready":
            self._ready = words.cast("i")

    # -- what is done ----------------------------------------------------------------------

    def wait(self, nanoseconds: int) -> list[int]:
        """Answer calls until there is something for us, or the time is over; under 0 is never.

        Shape: descriptor, events and how its call was taken, if it was, of each in turn.
        Raises: OSError.
        """
        nr = self._wait(self._address, nanoseconds)
        if nr < 0:
            raise OSError(-nr, os.strerror(-nr))
        return self._ready[: _TRIPLE * nr].tolist() if nr else []

    def handed(self, at: int) -> tuple[int, ...]:
        """Give the call that was taken of what was ready in this place."""
        return NOTIFICATION.unpack_from(self._arrays["handed"], at * NOTIFICATION.size)

    def figures(self) -> list[int]:
        """Give the numbers of changes, threads and counters, who was answered last, and how many left."""
        return self._figures.tolist()

    def decide(self, account: int, notification: bytes) -> int:
        """Charge a call of *account* that nobody waits for; give the charge, 0 for none; below 0 it is ours.

        What it does is told with all else when this next waits.
        """
        return int(self._decide(self._address, account, notification))

    def changes(self, nr: int) -> Iterator[tuple[int, int, int]]:
        """Give what was charged while we waited: account, charge, calls."""
        return _triples(self._changes, nr)

    def charged(self, nr: int) -> Iterator[tuple[int, int]]:
        """Give what counters were charged meanwhile: which, and how many bytes."""
        numbers = iter(self._charged[: 2 * nr].tolist())
        return zip(numbers, numbers, strict=True)

    def touched(self, nr: int) -> Iterator[tuple[int, int, int]]:
        """Give the threads that were answered meanwhile: account, thread, its last charge."""
        return _triples(self._touched, nr)


def _triples(words: memoryview, nr: int) -> Iterator[tuple[int, int, int]]:
    numbers = iter(words[: _TRIPLE * nr].tolist())
    return zip(numbers, numbers, numbers, strict=True)
