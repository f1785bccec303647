"""Leases: the fast path charges what the gate would charge, and nothing that it would not.

Two rigs do the same in step: one serves every call with the gate alone, the other lends its boxes to
the fast path first. Listeners are stand-ins, for a real one does not say when its caller calls; the
end-to-end tests run real ones, with the fast path from the first call on in CI.
"""

from __future__ import annotations

import os
import time
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmem_harness.controller.account.box import Box
from kmem_harness.controller.admission.gate import Gate
from kmem_harness.controller.admission.leases import Leases
from kmem_harness.controller.admission.prices import make_prices, read_kinds
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from kmem_harness.costs.live import live_kinds
from kmem_harness.costs.table import load_costs
from kmem_harness.interposer.listener import NOTIFICATION
from kmem_harness.interposer.syscalls import native_architecture
from kmem_harness.procfs.steps import result_of
from tests.controller.test_gate import AtOnce

NUMBERS = native_architecture().numbers
UNIX, INET, STREAM, DATAGRAM = 1, 2, 1, 2
CLONE_THREAD, CLONE_VM = 0x10000, 0x100
#: Calls and their arguments: with one case, with several, that make nothing, that are left to us.
CALLS = {
    "pipe": ("pipe2", ()),
    "pair": ("socketpair", ()),
    "unix": ("socket", (UNIX, STREAM)),
    "tcp": ("socket", (INET, STREAM | 0o4000)),
    "udp": ("socket", (INET, DATAGRAM)),
    "thread": ("clone", (CLONE_THREAD | CLONE_VM,)),
    "process": ("clone", (17,)),
    "vfork": ("vfork", ()),
    "open": ("openat", (0, 0, os.O_RDONLY)),
    "create": ("openat", (0, 0, os.O_CREAT)),
    "mkdir": ("mkdirat", ()),
    "unlink": ("unlinkat", ()),
}
BOX = st.integers(0, 3)
CALL = st.tuples(
    st.just("call"), BOX, st.integers(1, 2), st.sampled_from(sorted(CALLS)), st.integers(1, 9)
)
OTHER = st.one_of(
    st.tuples(st.just("look"), BOX, st.integers(0, 3)),
    st.tuples(st.just("limit"), st.integers(0, 4), st.sampled_from([3_000, 30_000, 10**8])),
    st.tuples(st.just("end"), st.just(1)),
)
PLACES = ("/slice/a", "/slice/b", "/c", "/slice/told")
COMMANDS = st.lists(st.one_of(CALL, CALL, CALL, CALL, CALL, OTHER), min_size=20, max_size=60)


class StandIn:
    """A listener that lets everything happen; what it waits on is never readable."""

    def __init__(self):
        self.fd, self.other = os.pipe()
        self.handed = []
        self.answers = []

    def allow(self, call):
        self.answers.append((call, None))
        return True

    def deny(self, call, number):
        self.answers.append((call, number))
        return True

    def is_waiting(self, _):
        return True

    def close(self):
        os.close(self.fd)
        os.close(self.other)


class ThoughtfulGate(Gate):
    """A gate that says when it has to think."""

    def __init__(self, rig):
        self.later = AtOnce()
        super().__init__(lambda: rig.boxes, self.later, lambda *_: None)
        self._rig = rig
        begin = self.decisions.begin

        def begin_aloud(call):
            rig.ways[-1] = "thought"
            begin(call)

        self.decisions.begin = begin_aloud


def excess_of(tid):
    """What a child of this thread has beyond its price."""
    yield
    return {"page-table": tid}


class Rig:
    """Four boxes, three of them in one slice, of which one is recorded and so never lent."""

    def __init__(self, *, lends, kernel="5.10", resting=()):
        self.tree = MemcgTree(profile_named(kernel), stock=False, use_hierarchy=True)
        for path in ("/slice", *PLACES):
            self.tree.make(path)
        request = {name: one.request() for name, one in live_kinds(load_costs(kernel)).items()}
        self.boxes = []
        for path in PLACES:
            memcg = self.tree.find(path)
            self.tree.write(path, "memory.kmem.limit_in_bytes", "1G")
            kinds = read_kinds(request)
            box = Box(path, memcg, kinds, observe=False)
            box.prices = make_prices(kinds, request, native_architecture(), box.table_grows)
            box.listeners.append(StandIn())
            if path in resting:
                box.pace.beyond = 1 << 40
            self.boxes.append(box)
        self.boxes[3].recording = SimpleNamespace(made=lambda *_: None)
        # One whose forks copy more than a task's price has, and one whose names are watched.
        self.boxes[1].spaces = SimpleNamespace(excess_of=excess_of)
        self.boxes[2].names = SimpleNamespace(watch=lambda *_: True)
        self.gate = ThoughtfulGate(self)
        self.ids = count(1)
        self.quiet = os.pipe()
        self.leases = Leases(self.quiet[0], lambda _: []) if lends else None
        #: How each call was decided: by the fast path, by the gate at once, or with more thought.
        self.ways = []
        if self.leases:
            for box in self.boxes:
                self.leases.watch(box.listeners[0])
                self.leases.enter(box, box.listeners[0])

    def call(self, index, tid, what, times=1):
        for _ in range(times):
            self.call_once(index, tid, what)

    def call_once(self, index, tid, what):
        name, arguments = CALLS[what]
        box = self.boxes[index]
        if not box.prices.covers(NUMBERS[name]):
            return
        (listener,) = box.listeners
        call = next(self.ids)
        arguments = (*arguments, *[0] * (6 - len(arguments)))
        notification = (call, tid, 0, NUMBERS[name], 0, 0, *arguments)
        account = self.leases and self.leases._by_box[box]
        if account and account.is_lent:
            charge = self.leases._path.decide(account.number, NOTIFICATION.pack(*notification))
            if charge >= 0:
                self.ways.append("fast")
                listener.allow(call)
                return
        self.settle()
        self.ways.append("at once")
        self.gate.serve(box, listener, notification)
        self.gate.later.go_on()
        while self.gate.decisions.parked:
            for parked in self.gate.decisions.parked:
                parked.deadline = 0
            self.gate.decisions.retry_parked()
            self.gate.later.go_on()
        if account:
            self.leases.lend(box, notification)

    def settle(self):
        """Have entered what was charged, as it is each time the fast path returns.

        Twice: what was charged by no wait is not entered yet where the first one copies counters.
        """
        if self.leases:
            assert self.leases.wait(0) == []
            assert self.leases.wait(0) == []

    def look(self, index, nr):
        """Find some of what a box made gone."""
        self.settle()
        box = self.boxes[index]
        box.withdraw()
        result_of(box.prove_tickets(lambda *_: nr % 2 == 0))
        for kind in box.kinds.values():
            box.books.lower(kind, min(nr, kind.live))
        box.pace.looked(0, box.memcg.kmem.usage, 0, 0, 0, 0)

    def limit(self, index, room):
        self.settle()
        memcg = self.tree.find((*PLACES, "/slice")[index])
        for box in self.boxes:
            if memcg.kmem in box.counters:
                box.withdraw()
        memcg.kmem.set_limit(memcg.kmem.usage + room)

    @property
    def fast(self):
        return self.ways.count("fast")

    def end(self, index):
        self.settle()
        self.boxes[index].ending = True
        self.boxes[index].withdraw()

    def state(self):
        self.settle()
        return [
            (
                [(one.usage, one.max_usage, one.limit, one.failcnt) for one in box.memcg.chain],
                {name: kind.report() for name, kind in box.kinds.items()},
                {tid: (one.syscall, one.nbytes) for tid, one in box.tickets.items()},
                (box.notifications, box.refusals),
                box.listeners[0].answers,
            )
            for box in self.boxes
        ]

    def close(self):
        for box in self.boxes:
            box.listeners[0].close()
        os.close(self.quiet[0])
        os.close(self.quiet[1])


@settings(max_examples=150, deadline=None)
@given(
    COMMANDS,
    st.sampled_from(["5.10", "v4"]),
    # Whose new peaks are the gate's; others' are let by, for most calls make one.
    st.sampled_from(PLACES),
)
def test_calls_when_boxes_are_lent_then_end_as_the_gate_alone_ends_them(
    commands, kernel, looked_at
):
    resting = {*PLACES} - {looked_at}
    lent, alone = (Rig(lends=lends, kernel=kernel, resting=resting) for lends in (True, False))
    try:
        for command, *arguments in commands:
            for rig in (lent, alone):
                getattr(rig, command)(*arguments)
            assert lent.state() == alone.state()
        for way, by_gate in zip(lent.ways, alone.ways, strict=True):
            assert by_gate == "at once" if way == "fast" else way == by_gate
    finally:
        lent.close()
        alone.close()


@pytest.fixture
def rig():
    rig = Rig(lends=True)
    yield rig
    rig.close()


def test_calls_when_far_from_every_limit_then_only_the_first_of_each_is_the_gates(rig):
    # The first peak is looked at, for which there is nothing here: let those after it by.
    for box in rig.boxes:
        box.pace.beyond = 1 << 40
    for what in ("pipe", "unix", "open", "mkdir", "process"):
        for _ in range(20):
            rig.call(0, 1, what)
    assert rig.fast == 5 * 19
    rig.settle()
    assert rig.boxes[0].notifications == 100


@pytest.mark.parametrize("what", ["create", "mkdir"])
def test_calls_when_names_are_watched_then_are_all_the_gates(rig, what):
    rig.boxes[2].rests_until = 1e9
    for _ in range(20):
        rig.call(2, 1, what)
    assert rig.fast == 0


@pytest.mark.parametrize("why", ["faults", "recording", "ending"])
def test_box_when_more_than_prices_decides_then_is_never_lent(rig, why):
    box = rig.boxes[0]
    answers = SimpleNamespace(answers=lambda *_, **__: False, made=lambda *_: None)
    setattr(box, why, answers)
    for _ in range(5):
        rig.call(0, 1, "pipe")
    assert rig.fast == 0


def test_fork_when_what_it_copies_is_known_no_longer_then_is_the_gates_again(rig, monkeypatch):
    monkeypatch.setattr("kmem_harness.controller.account.box._FORK_SECONDS", 0.05)
    box = rig.boxes[1]
    box.pace.beyond = 1 << 40
    rig.call(1, 7, "process")
    rig.call(1, 7, "process")
    rig.call(1, 15, "process")  # another, in the place of the first
    rig.call(1, 15, "process")
    rig.settle()
    assert (rig.fast, box.kinds["page-table"].live) == (2, 2 * 7 + 2 * 15)
    time.sleep(0.06)
    rig.call(1, 15, "process")
    assert rig.fast == 2


def test_thread_when_its_own_fork_was_not_priced_there_then_is_charged_as_ever(rig, monkeypatch):
    box = rig.boxes[1]
    box.pace.beyond = 1 << 40
    rig.call(1, 7, "thread", 2)
    with monkeypatch.context() as patch:
        patch.setattr(
            "kmem_harness.controller.admission.leases.CHARGES", 0
        )  # there is no room for more
        rig.call(1, 7, "vfork")
    rig.call(1, 7, "thread", 2)
    rig.settle()
    assert box.kinds["thread"].live == 4


def test_calls_when_many_in_a_row_were_lent_in_vain_then_are_not_for_a_while(rig):
    box = rig.boxes[2]  # its names are watched
    box.pace.beyond = 1 << 40
    account = rig.leases._by_box[box]
    rig.call(2, 1, "pipe", 2)
    assert account.is_lent
    for number in range(126):
        rig.call(2, 1, "mkdir")
        if account.is_lent:
            account.in_vain += 1  # as a real listener's call, which is handed over
        assert account.is_lent == (number < 4 or number >= 123)
    rig.call(2, 1, "pipe", 3)
    rig.settle()
    assert rig.ways[-2:] == ["fast", "fast"]
    assert account.in_vain == 0


def test_box_when_forgotten_then_its_numbers_are_given_out_again(rig):
    first, second, *others = rig.boxes
    for box in (first, second):
        rig.leases.forget(box.listeners[0].fd)
    left = {counter for box in others for counter in box.memcg.chain}
    assert set(rig.leases._copies) == left
    for box in (second, first):
        rig.leases.watch(box.listeners[0])
        rig.leases.enter(box, box.listeners[0])
        box.pace.beyond = 1 << 40
    for index, box in enumerate((first, second)):
        for _ in range(10):
            rig.call(index, 1, "pipe")
        rig.settle()
        assert box.kinds["pipe"].live == 10
    assert rig.fast == 18
    assert rig.tree.root.kmem.usage == first.memcg.kmem.usage + second.memcg.kmem.usage


@pytest.mark.parametrize("kernel", ["3.8", "3.12", "v4", "5.10"])
def test_limit_when_it_is_a_kernels_own_no_limit_then_fits_in_the_copy(kernel):
    rig = Rig(lends=True, kernel=kernel)
    for box in rig.boxes:
        for counter in box.memcg.chain:
            counter.set_limit(counter.ceiling)
        box.withdraw()
        box.pace.beyond = 1 << 40
    for _ in range(5):
        rig.call(0, 1, "process")
    assert rig.fast == 4
    rig.close()


def test_limit_when_a_box_that_is_never_lent_takes_the_room_then_binds_those_that_are(rig):
    rig.boxes[0].pace.beyond = rig.boxes[3].pace.beyond = 1 << 40
    rig.limit(4, 30_000)  # of the slice of both
    rig.call(0, 1, "pipe", 2)
    rig.call(3, 1, "pipe", 8)
    rig.call(0, 1, "pipe", 2)
    assert rig.ways[:2] == ["at once", "fast"]
    assert rig.ways[-2:] == ["thought", "thought"]
    assert rig.boxes[0].refusals == 1


def test_ticket_when_the_threads_next_call_makes_nothing_then_is_over(rig):
    box = rig.boxes[0]
    box.pace.beyond = 1 << 40
    rig.call(0, 1, "unlink", 2)
    rig.call(0, 1, "pipe", 2)
    rig.settle()
    assert set(box.tickets) == {1}
    rig.call(0, 1, "unlink")
    rig.settle()
    assert rig.ways == ["at once", "fast", "at once", "fast", "fast"]
    assert not box.tickets


def test_box_when_withdrawn_then_is_not_lent_over_there_either(rig):
    box = rig.boxes[0]
    account = rig.leases._by_box[box]
    rig.call(0, 1, "pipe")
    assert rig.leases._path.account(account.number).lent
    box.withdraw()
    assert not rig.leases._path.account(account.number).lent
