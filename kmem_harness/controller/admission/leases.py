"""Lend boxes to the fast path, which answers the calls that need no thought without Python.

It works on a copy: prices, counters, peaks. What it charged is entered in the books each time it
returns, before anything looks at them, so they are as true as without it. What is allowed is what
:meth:`Gate.serve` would allow, which is the place to understand it.

Why the copy is true. The counters of a box's own memcg change with its calls, after which it is lent
anew; with looks at it, control files written above it and memcgs made below it, before which it is
withdrawn (:attr:`Box.withdraw`). Its next call is the gate's then. Counters that several boxes
charge change with any of them, and are copied each time the fast path gets its turn.

Knows books and memcgs; how calls are received and answered over there is the interposer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.controller.account.box import nothing
from kmem_harness.interposer.fast_path import (
    CHARGES,
    COUNTER_WORDS,
    DEPTH,
    FORKS,
    IN_VAIN,
    NUMBERS,
    TESTS,
    FastPath,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.account.books import Charge, Price
    from kmem_harness.controller.account.box import Box
    from kmem_harness.core.counter import ResourceCounter
    from kmem_harness.interposer.listener import Listener

__all__ = ["Leases"]

_NANO = 1_000_000_000
#: Some kernels' "no limit" is more than a signed word holds.
_MOST = 1 << 62
_NEVER = _NOBODY = -1
#: After so many calls in a row that are never answered there, a box is not lent for so many more.
_MOST_IN_VAIN = 4
_PAUSE = 120


class _Copy:
    """A counter, and where its copy begins over there."""

    __slots__ = ("at", "counter", "nr_accounts", "number")

    def __init__(self, counter: ResourceCounter, number: int) -> None:
        self.counter = counter
        self.number = number
        self.at = number * COUNTER_WORDS
        self.nr_accounts = 0


class _Account:
    """What the numbers of one box's account over there stand for."""

    __slots__ = (
        "box",
        "charges",
        "copies",
        "in_vain",
        "is_lent",
        "known",
        "nr_charges",
        "nr_listeners",
        "nr_tests",
        "number",
    )

    def __init__(self, number: int, box: Box, copies: tuple[_Copy, ...]) -> None:
        self.number = number
        self.box = box
        #: What a charge walks.
        self.copies = copies
        #: The first stands for calls that make nothing, the last ones for copied address spaces.
        self.charges: list[Charge | None] = [None] * (CHARGES + FORKS)
        self.nr_charges = 1
        self.nr_tests = 0
        #: The calls that were priced over there, if they could be: whether they copy address spaces.
        self.known: dict[int, bool] = {}
        self.is_lent = False
        #: Calls in a row that are never answered there, and those since then.
        self.in_vain = 0
        self.nr_listeners = 0


class Leases:
    """Which boxes the fast path serves. For the loop it waits as ``poll`` does."""

    def __init__(
        self, others_fd: int, poll: Callable[[float | None], list[tuple[int, int]]]
    ) -> None:
        """Wait for *others_fd*, too; while nothing is lent, by *poll*, which knows all of them.

        Raises: OSError where there is no fast path.
        """
        self._path = FastPath(others_fd)
        self._poll = poll
        self._nr_lent = 0
        #: The listener answered last over there, when we last waited; -1 for none.
        self.last_fd = _NOBODY
        self._listeners: dict[int, Listener] = {}
        self._accounts: dict[int, _Account] = {}
        self._free_accounts: list[int] = []
        self._by_fd: dict[int, _Account] = {}
        self._by_box: dict[Box, _Account] = {}
        self._copies: dict[ResourceCounter, _Copy] = {}
        self._numbered: dict[int, _Copy] = {}
        self._free_numbers: list[int] = []
        #: Those that more than one account walks.
        self._shared: dict[_Copy, None] = {}

    # -- for the loop ----------------------------------------------------------------------

    def watch(self, listener: Listener) -> None:
        """Wait for *listener*, too."""
        self._listeners[listener.fd] = listener
        self._path.watch(listener.fd)

    def forget(self, fd: int) -> None:
        """Wait for it no more; to be called before it is closed."""
        del self._listeners[fd]
        self._path.forget(fd)
        account = self._by_fd.pop(fd, None)
        if account is not None:
            account.nr_listeners -= 1
            if not account.nr_listeners:
                self._close(account)

    def wait(self, patience_ms: float | None) -> list[tuple[int, int]]:
        """Answer what is lent until something is left for us. Shape: as of ``poll``."""
        if not self._nr_lent:
            self.last_fd = _NOBODY
            return self._poll(patience_ms)
        return self._run(_NEVER if patience_ms is None else int(patience_ms * 1_000_000))

    def _run(self, nanoseconds: int) -> list[tuple[int, int]]:
        path = self._path
        words = path.counters
        for copy in self._shared:
            words[copy.at] = copy.counter.usage
            words[copy.at + 1] = copy.counter.max_usage
        left = path.wait(nanoseconds)
        nr_changes, nr_touched, nr_charged, self.last_fd, vanished = path.figures()
        if vanished:
            self._note_vanished()
        if nr_changes:
            self._enter(nr_changes, nr_touched, nr_charged)
        ready = []
        for at in range(0, len(left), 3):
            fd = left[at]
            ready.append((fd, left[at + 1]))
            if left[at + 2]:
                self._listeners[fd].handed.append(path.handed(at // 3))
                if left[at + 2] == IN_VAIN:
                    self._by_fd[fd].in_vain += 1
        return ready

    def _enter(self, nr_changes: int, nr_touched: int, nr_charged: int) -> None:
        """Enter in the books what was charged over there."""
        for number, nbytes in self._path.charged(nr_charged):
            self._numbered[number].counter.charge_found_to_fit(nbytes)
        for number, index, calls in self._path.changes(nr_changes):
            account = self._accounts[number]
            account.in_vain = 0
            box, charge = account.box, account.charges[index]
            box.notifications += calls
            if charge is not None:
                box.enter(charge, calls)
        for number, tid, index in self._path.touched(nr_touched):
            account = self._accounts[number]
            charge = account.charges[index]
            if charge is None:
                account.box.tickets.pop(tid, None)
            else:
                account.box.tickets[tid] = charge

    def _note_vanished(self) -> None:
        """Count in each box the calls that were over before they were received."""
        for number, account in self._accounts.items():
            there = self._path.account(number)
            account.box.vanished += there.vanished
            there.vanished = 0

    # -- for boxes -------------------------------------------------------------------------

    def enter(self, box: Box, listener: Listener) -> None:
        """Open an account for *box*, or find it, for the calls of *listener*."""
        account = self._by_box.get(box)
        if account is None:
            number = self._free_accounts.pop() if self._free_accounts else len(self._accounts)
            chain = box.memcg.chain
            account = _Account(number, box, tuple(self._copy_of(counter) for counter in chain))
            there = self._path.empty_account(number)
            walked = account.copies[:DEPTH]  # one that is deeper is not lent
            there.nr_counters = len(walked)
            there.counters[: len(walked)] = [copy.number for copy in walked]
            there.kmem = chain.index(box.memcg.kmem)
            self._accounts[number] = self._by_box[box] = account
            box.withdraw = lambda: self._withdraw(account)
        account.nr_listeners += 1
        self._by_fd[listener.fd] = account
        self._path.own(listener.fd, account.number)

    def lend(self, box: Box, notification: tuple[int, ...]) -> None:
        """Lend *box*, of which the gate has just seen *notification*, if that may be."""
        account = self._by_box[box]
        if account.in_vain >= _MOST_IN_VAIN:
            self._withdraw(account)
            account.in_vain += 1
            if account.in_vain < _MOST_IN_VAIN + _PAUSE:
                return
            account.in_vain = 0
        if not account.is_lent:
            if not _may_lend(box):
                return
            account.is_lent = True
            self._nr_lent += 1
            self._copy_limits(account)
        number = notification[3]
        if number not in account.known:
            account.known[number] = self._learn(account, number, box.prices[number])
        if account.known[number]:
            self._learn_fork(account, notification[1])
        path = self._path
        words = path.counters
        for copy in account.copies:
            words[copy.at] = copy.counter.usage
            words[copy.at + 1] = copy.counter.max_usage
        path.lend(account.number, box.pace.beyond)

    def _withdraw(self, account: _Account) -> None:
        """Lend a box no longer: its counters are about to change, or it ends."""
        if account.is_lent:
            account.is_lent = False
            self._nr_lent -= 1
            self._path.withdraw(account.number)

    def _copy_limits(self, account: _Account) -> None:
        """Copy what does not change while a box is lent."""
        words = self._path.counters
        for copy in account.copies:
            words[copy.at + 2] = min(copy.counter.limit, _MOST)

    def _close(self, account: _Account) -> None:
        self._withdraw(account)
        del self._accounts[account.number]
        del self._by_box[account.box]
        account.box.withdraw = nothing
        self._free_accounts.append(account.number)
        for copy in account.copies:
            copy.nr_accounts -= 1
            if copy.nr_accounts == 1:
                del self._shared[copy]
            elif not copy.nr_accounts:
                del self._copies[copy.counter], self._numbered[copy.number]
                self._free_numbers.append(copy.number)

    def _copy_of(self, counter: ResourceCounter) -> _Copy:
        """Find the copy of *counter* for one more account, or make it."""
        copy = self._copies.get(counter)
        if copy is None:
            number = self._free_numbers.pop() if self._free_numbers else len(self._copies)
            self._path.make_counter(number)
            copy = self._copies[counter] = self._numbered[number] = _Copy(counter, number)
        copy.nr_accounts += 1
        if copy.nr_accounts == 2:  # noqa: PLR2004 - from two on
            self._shared[copy] = None
        return copy

    def _learn(self, account: _Account, number: int, price: Price) -> bool:
        """Price calls of *number* over there, if that can be said there; true if some copy memory."""
        box, first = account.box, account.nr_charges
        if (
            not price.stands_alone
            or number >= NUMBERS
            or first + len(price.cases) > CHARGES
            or account.nr_tests + sum(len(tests) for tests, _ in price.cases) > TESTS
            or all(_is_left(box, charge) for _, charge in price.cases)
        ):
            return False
        copies = False
        there = self._path.account(account.number)
        for index, (tests, charge) in enumerate(price.cases, start=first):
            account.charges[index] = charge
            one = there.charges[index]
            one.nbytes = charge.nbytes
            one.first_test = account.nr_tests
            one.nr_tests = len(tests)
            one.left = _is_left(box, charge)
            one.copies_memory = charge.copies_memory and box.spaces is not None
            copies |= one.copies_memory
            for argument, mask, value in tests:
                test = there.tests[account.nr_tests]
                test.argument = argument
                test.mask = mask
                test.any = value is None
                test.value = value or 0
                account.nr_tests += 1
        account.nr_charges += len(price.cases)
        there.prices[number] = first
        return bool(copies)

    def _learn_fork(self, account: _Account, tid: int) -> None:
        """Say over there what a call of *tid* comes to that copies its address space."""
        known = account.box.learned_fork(tid)
        # It may be one of a call that is not priced there, such as vfork.
        if known is not None and known[1] in account.charges:
            until, charge, whole = known
            at = tid % FORKS
            account.charges[CHARGES + at] = whole
            there = self._path.account(account.number)
            there.charges[CHARGES + at].nbytes = whole.nbytes
            fork = there.forks[at]
            fork.until = int(until * _NANO)
            fork.tid = tid
            fork.of = account.charges.index(charge)


def _may_lend(box: Box) -> bool:
    """Say whether nothing but prices and counters decides what becomes of its calls."""
    return (
        box.memcg.accounts
        and box.memcg.tree.exact
        and len(box.memcg.chain) <= DEPTH
        and box.faults is None
        and box.recording is None
        and not box.ending
        and not box.is_looked_at
    )


def _is_left(box: Box, charge: Charge) -> bool:
    """Say whether a call has to be looked at by more than its arguments."""
    return charge.on_names and box.names is not None
