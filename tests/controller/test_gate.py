"""The gate's books: never below what is alive, and certain before it refuses.

Listener and census are stand-ins here, for a real one cannot be made to stop between a clone's
answer and its child. The processes whose state is proof are real. End to end, the bombs of
tests/e2e try the same.
"""

from __future__ import annotations

import errno
import itertools
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmem_harness.controller.account import box as accounts
from kmem_harness.controller.account.books import Charge, Kind, Price
from kmem_harness.controller.account.box import Box
from kmem_harness.controller.admission import censuses, gate, parked
from kmem_harness.controller.admission.gate import Gate
from kmem_harness.controller.admission.parked import PARK_SECONDS, Call
from kmem_harness.controller.audit import audit
from kmem_harness.controller.audit.audit import Audit
from kmem_harness.controller.audit.tasks import TaskPart
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from kmem_harness.procfs.census import Tasks
from kmem_harness.procfs.steps import result_of
from tests.support.peak import until

CLONE, CLONE3 = 56, 435
TASK, THREAD = 8192, 4096
CLONE_THREAD = 0x10000


@dataclass
class FakeListener:
    """Hand out queued calls; note the answers. Shape: id to None (allowed) or an errno."""

    calls: deque = field(default_factory=deque)
    answers: dict[int, int | None] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def call(self, tid, number=CLONE, flags=0):
        self.calls.append((next(self.ids), tid, 0, number, 0, 0, flags, 0, 0, 0, 0, 0))
        return self.calls[-1][0]

    def receive(self):
        return self.calls.popleft()

    def allow(self, call):
        return self._answer(call, None)

    def deny(self, call, number):
        return self._answer(call, number)

    def is_waiting(self, call):
        return call not in self.gone

    def _answer(self, call, answer):
        if call in self.gone:
            return False
        assert call not in self.answers
        self.answers[call] = answer
        return True

    def close(self):
        pass


class FakeCensus:
    """Find what the test says is alive."""

    def __init__(self):
        self.found = Tasks(0, 0)

    def count(self, *, with_threads):
        yield
        return Tasks(self.found.processes, self.found.threads if with_threads else 0)

    def close(self):
        pass


class AtOnce:
    """Do now what the loop does later, but for timers: tests look again themselves."""

    def __init__(self):
        self.jobs = deque()

    def spawn(self, job):
        self.jobs.append(job)

    def call_later(self, seconds, action):
        pass

    def go_on(self):
        while self.jobs:
            self.step()

    def step(self):
        if self.jobs:
            job = self.jobs.popleft()
            waits = next(job, job)
            if waits is None:
                self.jobs.append(job)
            elif waits is not job:
                waits.append(job)


class Bench:
    """A gate with one box under a limit of *tasks* tasks."""

    def __init__(self, tasks, *, observe=False):
        tree = MemcgTree(profile_named("v4"), stock=False, use_hierarchy=True)
        tree.make("/box")
        tree.write("/box", "memory.kmem.limit_in_bytes", str(tasks * TASK))
        self.memcg = tree.find("/box")
        self.box = new_box(self.memcg, observe=observe)
        self.listener = FakeListener()
        self.box.listeners.append(self.listener)
        self.census = FakeCensus()
        self.box.tasks = TaskPart(self.census)
        self.box.audit = Audit(self.box.books, [self.box.tasks])
        self.cards = []
        self.later = AtOnce()
        self.gate = Gate(lambda: [self.box], self.later, lambda _, card: self.cards.append(card))

    def serve(self, tid, **call):
        call = self.listener.call(tid, **call)
        self.gate.serve(self.box, self.listener, self.listener.receive())
        self.later.go_on()
        return call

    def answer(self, call):
        return self.listener.answers.get(call, "waits")

    def final_answer(self, call):
        """Look again as the loop does: on a busy machine a census is not always due at once."""
        until(lambda: self.retry() or self.answer(call) != "waits", 5, "no answer")
        return self.answer(call)

    def retry(self):
        self.gate.decisions.retry_parked()
        self.later.go_on()

    @property
    def parked(self):
        return self.gate.decisions.parked

    @property
    def live(self):
        return {name: kind.live for name, kind in self.box.kinds.items()}


def new_box(memcg, *, observe=False):
    kinds = {
        "task": Kind("task", TASK, errno.ENOMEM, "ENOMEM"),
        "thread": Kind("thread", THREAD, errno.ENOMEM, "ENOMEM"),
    }
    box = Box("box", memcg, kinds, observe=observe)
    task, thread = ((kinds[name], 1) for name in ("task", "thread"))
    is_thread = (((0, CLONE_THREAD, None),), Charge("clone", CLONE, (thread,)))
    box.prices[CLONE] = Price("clone", (is_thread, ((), Charge("clone", CLONE, (task,)))))
    unseen = Charge("clone3", CLONE3, (task,), uncertain=True)
    box.prices[CLONE3] = Price("clone3", (((), unseen),))
    return box


@pytest.fixture
def busy():
    """Give a process that always runs: nothing about it proves that its clone is over."""
    code = "print(flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()  # from here on it makes no call
    while (
        "running" not in open(f"/proc/{process.pid}/syscall").read()  # noqa: PTH123, SIM115
    ):
        time.sleep(0.001)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def asleep():
    """Give a process that sleeps in a read: whatever it was allowed is over."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    while b") S " not in open(f"/proc/{process.pid}/stat", "rb").read():  # noqa: PTH123, SIM115
        time.sleep(0.001)
    yield process
    process.stdin.close()
    process.wait()


def test_call_when_there_is_room_then_is_charged_before_it_runs(busy):
    bench = Bench(2)
    assert bench.answer(bench.serve(busy.pid)) is None
    assert bench.memcg.kmem.usage == TASK
    assert bench.box.tickets.keys() == {busy.pid}


def test_call_when_its_caller_is_gone_then_its_charge_is_taken_back():
    bench = Bench(2)
    bench.listener.gone.add(1)
    bench.serve(1)
    assert bench.memcg.kmem.usage == 0
    assert bench.live == {"task": 0, "thread": 0}
    assert bench.box.tickets == {}


def test_call_when_limit_is_met_by_what_is_alive_then_is_refused(asleep):
    bench = Bench(1)
    bench.serve(asleep.pid)
    bench.census.found = Tasks(1, 0)
    assert bench.final_answer(bench.serve(1)) == errno.ENOMEM
    (card,) = bench.cards
    assert (card["usage"], card["limit"], card["tid"]) == (TASK, TASK, 1)
    assert bench.box.report()["kinds"]["task"]["refused"] == 1


def test_call_when_limit_is_met_by_the_dead_alone_then_runs(asleep):
    bench = Bench(1)
    for _ in range(5):
        assert bench.final_answer(bench.serve(asleep.pid)) is None
    assert bench.box.refusals == 0
    assert bench.memcg.kmem.max_usage == TASK
    assert bench.box.kinds["task"].charged == 5


@pytest.mark.parametrize("how", ["its thread dies", "its thread calls again"])
def test_call_when_an_earlier_clone_is_unproven_then_waits_for_the_proof(how, busy, asleep):
    bench = Bench(2)
    assert bench.answer(bench.serve(busy.pid)) is None  # its child is there, or comes yet
    bench.box.tickets[busy.pid].last_child = None  # nobody looked: the weakest evidence
    assert bench.answer(bench.serve(asleep.pid)) is None
    bench.census.found = Tasks(1, 0)
    # One is alive, which may be the busy one's child or not: a third may fit or not.
    waiting = bench.serve(1)
    assert bench.answer(waiting) == "waits"
    if how == "its thread dies":
        busy.kill()
        busy.wait()
        assert bench.final_answer(waiting) is None
    else:
        again = bench.serve(busy.pid)  # that proof makes room for one of the two
        answers = [bench.final_answer(again), bench.final_answer(waiting)]
        assert sorted(answers, key=bool) == [None, errno.ENOMEM]
    assert not bench.parked
    assert bench.memcg.kmem.usage <= 2 * TASK


def test_call_when_nothing_is_proven_in_time_then_is_refused_at_its_deadline(busy):
    bench = Bench(1)
    assert bench.answer(bench.serve(busy.pid)) is None
    bench.box.tickets[busy.pid].last_child = None
    began = time.monotonic()
    waiting = bench.serve(1)
    while bench.answer(waiting) == "waits":
        assert bench.parked
        assert time.monotonic() - began < 1
        bench.retry()
    assert bench.answer(waiting) == errno.ENOMEM
    assert time.monotonic() - began >= PARK_SECONDS
    assert bench.memcg.kmem.usage == TASK


def test_parked_call_when_its_caller_dies_then_is_neither_refused_nor_charged(busy):
    bench = Bench(1)
    bench.serve(busy.pid)
    bench.box.tickets[busy.pid].last_child = None
    waiting = bench.serve(1)
    assert bench.answer(waiting) == "waits"
    bench.listener.gone.add(waiting)
    time.sleep(PARK_SECONDS)
    bench.retry()
    assert not bench.parked
    assert bench.box.refusals == 0
    assert bench.memcg.kmem.usage == TASK


def test_parked_call_when_its_box_is_over_then_is_forgotten(busy):
    bench = Bench(1)
    bench.serve(busy.pid)
    bench.box.tickets[busy.pid].last_child = None
    bench.serve(1)
    assert bench.parked
    bench.gate.forget(bench.listener)
    bench.box.close_books()
    assert not bench.parked
    assert bench.memcg.kmem.usage == 0


def test_call_when_the_census_at_a_peak_takes_its_room_then_is_refused_and_books_balance(asleep):
    """What grows without a call, as page tables do, is charged when a census finds it."""
    bench = Bench(2)
    grown = iter([2 * TASK])

    def look(*_, **__):
        bench.memcg.charge(next(grown, 0))
        yield
        return True

    bench.box.audit.parts_for = look
    call = bench.serve(asleep.pid)
    assert bench.final_answer(call) == errno.ENOMEM
    assert bench.memcg.kmem.usage == 2 * TASK
    assert [card["usage"] for card in bench.cards] == [2 * TASK]


class Clock:
    """The time, as the gate and the audits see it: it goes on by itself only as they ask for it."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        self.now += 0.000_01
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (audit, accounts, censuses, gate, parked):
        monkeypatch.setattr(module, "time", clock)
    return clock


class SlowCensus(FakeCensus):
    """Find what was said, after a while."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock = clock
        self.seconds = seconds
        self.looks = 0

    def count(self, *, with_threads):
        self.looks += 1
        self.clock.now += self.seconds
        return (yield from super().count(with_threads=with_threads))


class Crowd:
    """A gate with boxes whose use grows all the time, and so do their peaks."""

    def __init__(self, clock, *look_seconds):
        self.clock = clock
        tree = MemcgTree(profile_named("v4"), stock=False, use_hierarchy=True)
        self.censuses = [SlowCensus(clock, seconds) for seconds in look_seconds]
        self.boxes = []
        for number, census in enumerate(self.censuses):
            memcg = tree.make(f"/{number}")
            tree.write(f"/{number}", "memory.kmem.limit_in_bytes", str(1 << 40))
            box = new_box(memcg)
            box.listeners.append(FakeListener())
            box.tasks = TaskPart(census)
            box.audit = Audit(box.books, [box.tasks])
            self.boxes.append(box)
        self.later = AtOnce()
        self.gate = Gate(lambda: self.boxes, self.later, lambda *_: None)

    def serve(self, box):
        (listener,) = box.listeners
        self.clock.now += 0.000_01
        call = listener.call(1 << 23)  # nobody's
        self.gate.serve(box, listener, listener.receive())
        self.later.go_on()
        return call

    def grow(self, seconds):
        """Have each make a task that stays, again and again."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            for box, census in zip(self.boxes, self.censuses, strict=True):
                self.serve(box)
                census.found = Tasks(box.kinds["task"].live, 0)


def test_peaks_when_many_boxes_reach_them_then_looks_leave_time_and_are_shared_out_evenly(clock):
    crowd = Crowd(clock, *[0.001] * 20)
    crowd.grow(0.2)  # until it is known how many there are
    for census in crowd.censuses:
        census.looks = 0
    crowd.grow(1)
    looks = sorted(census.looks for census in crowd.censuses)
    assert 3 <= looks[0] <= looks[-1] <= 20  # were each alone, it would be a hundred


def test_peaks_when_another_box_is_dear_to_look_at_then_a_cheap_one_is_still_looked_at(clock):
    crowd = Crowd(clock, 0.05, 0.0005)
    crowd.grow(1.5)
    dear, cheap = (census.looks for census in crowd.censuses)
    assert 2 <= dear <= 4
    assert cheap >= 10 * dear


@pytest.mark.parametrize("late", [False, True])
def test_peak_when_its_call_has_waited_until_its_deadline_then_is_looked_at_no_more(late, clock):
    crowd = Crowd(clock, 0, 0)
    (box, other), (census, _) = crowd.boxes, crowd.censuses
    (listener,) = box.listeners
    box.is_looked_at = True  # as in the middle of another look at it
    listener.call(1 << 23)
    call = Call(box, listener, 1, 1 << 23, box.prices[CLONE].choose(listener.receive()))
    crowd.gate.decisions.begin(call)
    assert listener.answers == {}
    if late:
        clock.now += PARK_SECONDS
    box.books.kinds["task"].live = 1  # one that may be gone
    box.memcg.charge(TASK)
    box.is_looked_at = False
    crowd.gate._serve_held(box)
    crowd.later.go_on()
    assert listener.answers == {1: None}
    assert census.looks == (not late)
    assert not other.tickets


@pytest.mark.parametrize("seconds", [0.05, 5.0])
def test_refusals_when_a_look_takes_long_then_looks_get_half_the_time_and_old_counts_are_told(
    seconds, clock
):
    crowd = Crowd(clock, seconds)
    (box,), (census,) = crowd.boxes, crowd.censuses
    crowd.serve(box)
    census.found = Tasks(1, 0)
    box.memcg.kmem.limit = TASK
    (listener,) = box.listeners
    longest = 0.0
    began, census.looks = clock.now, 0
    while clock.now < began + 20 * seconds:
        called, call = clock.now, crowd.serve(box)
        while call not in listener.answers:
            clock.now += 0.001
            crowd.gate.decisions.retry_parked()
            crowd.later.go_on()
        assert listener.answers[call] == errno.ENOMEM
        longest = max(longest, clock.now - called)
    assert census.looks * seconds <= 0.6 * (clock.now - began)
    assert census.looks >= 4
    assert longest <= max(3 * seconds, 1.1 + seconds)
    assert len(box.report()["partial"]) == (seconds > 1)


def test_call_when_box_is_ending_then_is_not_answered_and_no_refusal_counted(asleep):
    bench = Bench(1)
    bench.serve(asleep.pid)
    bench.census.found = Tasks(1, 0)
    bench.box.ending = True
    assert bench.answer(bench.serve(1)) == "waits"
    assert (bench.box.refusals, bench.box.report()["unanswered"]) == (0, 1)


class GrowingPart:
    """Finds more each time it looks, in steps, as page tables that grow."""

    kinds = ("task",)

    def count(self, books):
        books.observe(books.kinds["task"], 2, bounded=False)
        yield
        books.observe(books.kinds["task"], 4, bounded=False)

    def doubts(self):
        return []

    def close(self):
        pass


def test_look_when_the_box_is_over_in_the_middle_then_charges_nothing_more():
    """A demo found 16,264 bytes charged after its end: a look went on after the books were closed."""
    bench = Bench(9)
    bench.box.audit = Audit(bench.box.books, [GrowingPart()])
    steps = bench.gate.censuses.take_of(bench.box)
    while not bench.memcg.kmem.usage:
        next(steps)
    bench.box.close_books()
    assert list(steps) == []
    assert bench.memcg.kmem.usage == 0
    assert list(bench.gate.censuses.take_of(bench.box)) == []


def test_call_when_observed_then_is_never_refused(asleep):
    bench = Bench(1, observe=True)
    for count in range(1, 5):
        bench.census.found = Tasks(count - 1, 0)
        assert bench.answer(bench.serve(asleep.pid)) is None
    assert bench.memcg.kmem.usage == 4 * TASK


def test_clone_when_its_flags_say_thread_then_is_charged_as_one(asleep):
    bench = Bench(2)
    bench.serve(asleep.pid, flags=CLONE_THREAD)
    assert bench.live == {"task": 0, "thread": 1}
    assert bench.memcg.kmem.usage == THREAD


def test_clone3_when_census_finds_a_thread_then_it_is_charged_as_one_from_then_on(asleep):
    bench = Bench(2)
    bench.serve(asleep.pid, number=CLONE3)
    assert bench.memcg.kmem.usage == TASK
    bench.census.found = Tasks(0, 1)
    result_of(bench.gate.censuses.take(bench.memcg.kmem))
    assert bench.live == {"task": 0, "thread": 1}
    assert bench.memcg.kmem.usage == THREAD
    rows = bench.box.report()["kinds"]
    assert (rows["task"]["charged"], rows["thread"]["charged"]) == (0, 1)
    assert rows["thread"]["live_peak"] == 1


# -- the books against an obvious model ----------------------------------------------------------


@dataclass(eq=False)
class Clone:
    """One call: what it was charged as, what it really makes, and how far it got."""

    charged_as: str
    really: str
    born: bool = False
    proven: bool = False


BYTES = {"task": TASK, "thread": THREAD}
CLONES = {
    "fork": ("task", "task"),
    "thread": ("thread", "thread"),
    "clone3 task": ("task", "task"),
    "clone3 thread": ("task", "thread"),
}
STEPS = st.lists(
    st.tuples(
        st.sampled_from([*CLONES, "born", "stillborn", "dies", "proven", "census"]),
        st.integers(0, 50),
    ),
    max_size=60,
)


class World:
    """A box's books beside the truth that they should cover."""

    def __init__(self):
        tree = MemcgTree(profile_named("v4"), stock=False, use_hierarchy=True)
        tree.make("/box")
        tree.write("/box", "memory.kmem.limit_in_bytes", str(1 << 40))
        self.memcg = tree.find("/box")
        self.box = new_box(self.memcg)
        self.alive: list[Clone] = []  # those that may yet be born, too
        self.under_way: dict[int, Clone] = {}

    def clone(self, name):
        one = Clone(*CLONES[name])
        charge = Charge("clone", CLONE, ((self.box.kinds[one.charged_as], 1),))
        assert self.memcg.try_charge(charge.nbytes) is None
        self.box.books.enter(charge)
        tid = self.box.kinds["task"].charged + self.box.kinds["thread"].charged
        while tid in self.under_way:  # a thread is in one call at a time
            tid += 1
        self.box.tickets[tid] = charge
        self.under_way[tid] = one
        self.alive.append(one)

    def census(self):
        for tid in [tid for tid, one in self.under_way.items() if one.proven]:
            del self.box.tickets[tid], self.under_way[tid]
        before = self.memcg.kmem.usage
        self.box.books.reconcile(self.truth())
        assert self.memcg.kmem.usage <= before

    def happen(self, step, number):
        if step in CLONES:
            self.clone(step)
        elif step == "census":
            self.census()
        elif self.alive:
            self.befall(step, self.alive[number % len(self.alive)])

    def befall(self, step, one):
        if step == "born":
            one.born = True
        elif step == "proven":
            one.proven = one.born
        elif step == "stillborn" and not one.born:  # killed before its clone made it
            one.proven = True
            self.alive.remove(one)
        elif step == "dies" and one.born:
            self.alive.remove(one)

    def truth(self):
        born = [one.really for one in self.alive if one.born]
        return {name: born.count(name) for name in BYTES}

    @property
    def live(self):
        return {name: kind.live for name, kind in self.box.kinds.items()}


@settings(database=None)
@given(steps=STEPS)
def test_reconcile_when_anything_happens_then_books_are_never_below_what_is_alive(steps):
    """Whatever is alive, or may yet come, is charged; and a quiet box's books become exact."""
    world = World()
    for step, number in steps:
        world.happen(step, number)
        needed = sum(BYTES[one.really] for one in world.alive)
        booked = sum(BYTES[name] * count for name, count in world.live.items())
        assert world.memcg.kmem.usage == booked >= needed
        assert min(world.live.values()) >= 0
    for one in [*world.alive, *world.under_way.values()]:
        one.born = one.proven = True
    world.census()
    world.census()
    assert world.live == world.truth()
    world.box.close_books()
    assert world.memcg.kmem.usage == world.memcg.memory.usage == 0


@pytest.mark.parametrize("limited", [False, True])
def test_peak_of_all_when_a_large_box_is_beside_then_is_waited_for_only_if_it_is_limited(
    limited, clock
):
    crowd = Crowd(clock, 0.01, 0.0)
    large, small = crowd.boxes
    for box in crowd.boxes:
        for _ in range(3):
            crowd.serve(box)
    for box, census in zip(crowd.boxes, crowd.censuses, strict=True):
        census.found = Tasks(3, 0)
        for _ in range(5):
            result_of(
                box.audit.all_parts()
            )  # from now on it is known how long that takes, held up or not
    clock.now += 0.06  # by then it may be done again
    assert (large.is_quick_to_look_at, small.is_quick_to_look_at) == (False, True)
    for box, census in zip(crowd.boxes, crowd.censuses, strict=True):
        box.pace.rests_until = box.pace.beyond = box.pace.seen = 0
        census.looks = 0
    for counter in small.counters:
        # The next call is a peak of all together, and not of its own box.
        counter.max_usage = 1 << 30 if counter.memcg is small.memcg else counter.usage
    if limited:
        small.memcg.tree.root.kmem.set_limit(1 << 40)
    crowd.serve(small)
    assert crowd.censuses[0].looks == limited
