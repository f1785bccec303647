"""Calls that come between any two steps of a decision or a look: nothing is charged past a limit.

A model knows which objects there are. The boxes' part of a census finds, in steps, only what lives
throughout; what threads are doing is the model's to say as well. Every command is one moment: a call
comes in, a call returns, an object goes, a job takes its next step, the parked are looked at again.
Both ways of answering: by the gate alone, and with the fast path, which is lent the boxes.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmem_harness.controller.account.books import Charge, Kind, Price
from kmem_harness.controller.account.box import Box
from kmem_harness.controller.admission import censuses, parked
from kmem_harness.controller.admission.gate import Gate
from kmem_harness.controller.admission.leases import Leases
from kmem_harness.controller.audit.audit import Audit
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from kmem_harness.interposer.listener import NOTIFICATION
from tests.controller.test_gate import AtOnce

#: Bytes and numbers of the calls that make one.
KINDS = {"large": (8192, 41), "small": (4096, 42)}
PATHS = ("/slice/a", "/slice/b", "/c")
#: No call needs more than this room for itself and the objects that are to follow it.
LIMITS = {"/slice": 15, "/slice/a": 8, "/c": 6}
THREADS = 4
COMMAND = st.one_of(
    st.tuples(
        st.just("call"), st.integers(0, 2), st.integers(1, THREADS), st.sampled_from(sorted(KINDS))
    ),
    st.tuples(st.just("come back"), st.integers(0, 2), st.integers(1, THREADS), st.booleans()),
    st.tuples(st.just("go"), st.integers(0, 2), st.sampled_from(sorted(KINDS)), st.integers(1, 3)),
    st.tuples(st.just("step"), st.integers(1, 3)),
    st.tuples(st.just("tick")),
    st.tuples(st.just("be late")),
    st.tuples(st.just("note"), st.integers(0, 2)),
)
COMMANDS = st.lists(COMMAND, min_size=10, max_size=80)


class Object:
    """One that lives; looks compare them by identity."""

    def __init__(self, kind):
        self.kind = kind


class Part:
    """Find what lives throughout, in steps."""

    kinds = tuple(KINDS)

    def __init__(self, place):
        self.place = place

    def count(self, books):
        there = set(self.place.alive)
        for _ in range(3):
            yield
            there &= self.place.alive
        found = Counter(one.kind for one in there)
        for kind in KINDS:
            books.reconcile({kind: found[kind]})

    def potential(self, books):
        return books.nbytes_of(self.kinds)

    def doubts(self):
        return []

    def close(self):
        pass


class Place:
    """One box, its listener, and the truth about it."""

    def __init__(self, memcg, number):
        self.fd, self.other = os.pipe()
        self.handed = []
        self.number = number
        kinds = {
            name: Kind(name, nbytes, errno.ENOMEM, "ENOMEM") for name, (nbytes, _) in KINDS.items()
        }
        self.box = box = Box(memcg.path, memcg, kinds, observe=False)
        for name, (_, call) in KINDS.items():
            box.prices[call] = Price(name, (((), Charge(name, call, ((kinds[name], 1),))),))
        box.audit = Audit(box.books, [Part(self)])
        box.listeners.append(self)
        self.alive = set()
        #: By thread: the call it waits with, and what it is making.
        self.waiting = {}
        self.making = {}

    def allow(self, call):
        tid, kind = self.waiting_by(call)
        self.making[tid] = kind
        return True

    def deny(self, call, number):
        assert number == errno.ENOMEM
        self.waiting_by(call)
        return True

    def waiting_by(self, call):
        (tid,) = [tid for tid, (waits, _) in self.waiting.items() if waits == call]
        return tid, self.waiting.pop(tid)[1]

    def is_waiting(self, call):
        return any(waits == call for waits, _ in self.waiting.values())

    def come_back(self, tid, *, made):
        kind = self.making.pop(tid, None)
        if kind is not None and made:
            self.alive.add(Object(kind))

    def nbytes(self):
        """What there is, and what may be yet."""
        return sum(KINDS[one.kind][0] for one in self.alive) + sum(
            KINDS[kind][0] for kind in self.making.values()
        )

    def close(self):
        os.close(self.fd)
        os.close(self.other)


class World:
    """Boxes, their truth, and time as the commands make it pass."""

    def __init__(self, *, lends):
        self.tree = MemcgTree(profile_named("v4"), stock=False, use_hierarchy=True)
        for path in ("/slice", *PATHS):
            self.tree.make(path)
            nbytes = LIMITS.get(path, 1000) * 8192
            self.tree.write(path, "memory.kmem.limit_in_bytes", str(nbytes))
        self.places = [Place(self.tree.find(path), at) for at, path in enumerate(PATHS)]
        self.later = AtOnce()
        boxes = [place.box for place in self.places]
        self.gate = Gate(lambda: boxes, self.later, lambda *_: None)
        self.quiet = os.pipe()
        self.leases = Leases(self.quiet[0], lambda _: []) if lends else None
        if self.leases:
            for place in self.places:
                self.leases.watch(place)
                self.leases.enter(place.box, place)
        self.ids = count(1)
        self.fast = 0

    def is_over(self, tid, *_):
        at, tid = divmod(tid, 100)
        return tid not in self.places[at].making

    def do(self, command, *arguments):
        getattr(self, command.replace(" ", "_"))(*arguments)
        self.check()

    def call(self, at, tid, kind):
        place = self.places[at]
        if tid in place.waiting:
            return
        place.come_back(tid, made=True)  # it cannot call before it has
        call = next(self.ids)
        place.waiting[tid] = (call, kind)
        notification = (call, at * 100 + tid, 0, KINDS[kind][1], 0, 0, 0, 0, 0, 0, 0, 0)
        account = self.leases and self.leases._by_box[place.box]
        if account and account.is_lent:
            charged = self.leases._path.decide(account.number, NOTIFICATION.pack(*notification))
            if charged >= 0:
                self.fast += 1
                place.allow(call)
                return
        self.settle()
        self.gate.serve(place.box, place, notification)
        if self.leases:
            self.leases.lend(place.box, notification)

    def settle(self):
        if self.leases:  # twice, as in test_leases
            assert self.leases.wait(0) == []
            assert self.leases.wait(0) == []

    def come_back(self, at, tid, made):
        self.places[at].come_back(tid, made=made)

    def go(self, at, kind, nr):
        place = self.places[at]
        for one in [one for one in place.alive if one.kind == kind][:nr]:
            place.alive.remove(one)

    def step(self, nr):
        self.settle()
        for _ in range(nr):
            self.later.step()

    def tick(self):
        self.settle()
        self.gate.decisions.retry_parked()

    def be_late(self):
        decisions = self.gate.decisions
        for call in [*decisions.parked, *decisions._deciding]:
            call.deadline = 0.0

    def note(self, at):
        self.settle()
        self.later.spawn(self.gate.censuses.note(self.places[at].box))

    def check(self):
        self.settle()
        for place in self.places:
            box = place.box
            for counter in box.counters:
                assert counter.usage <= counter.limit
            booked = sum(kind.live * kind.nbytes for kind in box.kinds.values())
            assert booked == box.memcg.kmem.usage
            assert booked >= place.nbytes()
            if self.leases:
                account = self.leases._by_box[box]
                assert not (account.is_lent and box.is_looked_at)
                if account.is_lent:
                    self.check_copies(account)

    def check_copies(self, account):
        """What the fast path knows of counters that it alone charges is true."""
        for copy in account.copies:
            if copy.nr_accounts == 1:
                assert self.leases._path.counters[copy.at] == copy.counter.usage

    def end(self):
        """Have all calls answered and looked at, and compare the books with the truth."""
        while self.later.jobs or self.gate.decisions.parked:
            self.be_late()
            self.tick()
            self.later.go_on()
        self.check()
        for place in self.places:
            assert not place.waiting
            for tid in list(place.making):
                place.come_back(tid, made=True)
            self.later.spawn(self.gate.censuses.take_of(place.box))
        self.later.go_on()
        for place in self.places:
            assert not place.box.is_looked_at
            assert place.box.memcg.kmem.usage == place.nbytes()
            place.box.close_books()
        assert self.tree.root.kmem.usage == 0

    def close(self):
        for place in self.places:
            place.close()
        for fd in self.quiet:
            os.close(fd)


def carry_out(commands, *, lends):
    world = World(lends=lends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parked, "_AT_ONCE_SECONDS", 0.0)  # each step is one for a command
        patch.setattr(parked, "last_child_of", lambda _: None)
        patch.setattr(censuses, "call_is_over", world.is_over)
        try:
            for command in commands:
                world.do(*command)
            world.end()
        finally:
            world.close()
    return world


@pytest.mark.parametrize("lends", [False, True])
@settings(max_examples=150, deadline=None, database=None)
@given(commands=COMMANDS)
def test_calls_when_they_come_between_any_two_steps_then_no_counter_passes_its_limit(
    lends, commands
):
    carry_out(commands, lends=lends)


@pytest.mark.slow
@pytest.mark.parametrize("lends", [False, True])
@settings(max_examples=100_000, deadline=None, database=None)
@given(commands=COMMANDS)
def test_calls_when_they_come_between_any_two_steps_a_hundred_thousand_times_then_do_neither(
    lends, commands
):
    carry_out(commands, lends=lends)


def test_call_when_its_box_is_being_looked_at_then_waits_and_is_served_after_it():
    """It used to be served in the middle, and its box lent once more while counters changed."""
    note, calls = ("note", 2), [("call", 2, tid, "large") for tid in (1, 2, 3)]
    world = carry_out(
        [*calls, ("step", 50), note, ("step", 1), ("call", 2, 4, "small")], lends=True
    )
    assert world.places[2].box.notifications == 4


def test_call_when_it_waited_for_a_look_and_its_box_is_lent_by_then_then_the_box_is_withdrawn():
    """It was charged behind the back of the fast path, which went on past the limit."""
    world = World(lends=True)
    place = world.places[2]
    place.box.pace.beyond = 1 << 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(censuses, "call_is_over", world.is_over)
        world.do("note", 2)
        world.do("step", 1)
        world.do("call", 2, 1, "small")  # in the middle of the look
        while place.box.is_looked_at:
            world.do("step", 1)
        place.box.pace.beyond = 1 << 40
        world.do("call", 2, 2, "small")
        assert world.leases._by_box[place.box].is_lent
        for _ in range(3):
            world.do("step", 1)
        assert place.box.books.kinds["small"].live == 2
    world.close()
