"""The controller against a second, slow and obvious model, through random histories.

KMEM_HARNESS_LONG=1 runs 20,000 steps in all; by default a short sample of them.
"""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kmem_harness.core.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_NOFS, Gfp
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.releases import PROFILE_NAMES
from kmem_harness.core.tree import MemcgTree
from tests.core.slow_model import PAGE, UNLIMITED, Model

LONG = bool(os.environ.get("KMEM_HARNESS_LONG"))
STEPS = 50
COUNTERS = ("kmem", "memory")
GFPS = {
    "kernel": GFP_KERNEL,
    "noretry": GFP_KERNEL | Gfp.NORETRY,
    "nofs": GFP_NOFS,
    "atomic": GFP_ATOMIC,
    "nofail": GFP_KERNEL | Gfp.NOFAIL,
}


def attempts_of(kernel, gfp):
    """Say how often memory is asked when nothing can be reclaimed and nobody be killed."""
    if kernel == "5.10":
        # One, then after draining, then the 16 retries.
        return {"noretry": 2, "atomic": 1}.get(gfp, 18)
    may_oom = {"v4": ("kernel", "nofs")}.get(kernel, ("kernel",))
    return 6 if gfp in may_oom else 1


class TwoModels(RuleBasedStateMachine):
    steps = 0

    @initialize(kernel=st.sampled_from(PROFILE_NAMES), hierarchical=st.booleans())
    def boot(self, kernel, hierarchical):
        self.kernel = kernel
        self.tree = MemcgTree(profile_named(kernel), stock=False, use_hierarchy=hierarchical)
        self.model = Model(kernel)
        self.model.root.hierarchical = hierarchical
        self.pairs = [(self.tree.root, self.model.root)]
        self.charged = []
        self.pids = {}
        self.next_pid = 100
        # A start from which limits can be met soon: a chain, and beside it a single one.
        for path, hierarchy in (("a", True), ("a/b", None), ("c", None)):
            above, name = path.rpartition("/")[::2]
            self.make_in(*next(p for p in self.pairs if p[0] is self.tree.find(above)), name)
            group = self.pairs[-1][1]
            if hierarchy and not hierarchical:
                assert self.model.set_hierarchy(group, value=True) == "ok"
                self.tree.write(path, "memory.use_hierarchy", "1")
            if path != "a/b":
                assert self.model.set_kmem_limit(group, 12 * PAGE, busy=False) == "ok"
                self.tree.write(path, "memory.kmem.limit_in_bytes", str(12 * PAGE))

    def live(self):
        return [pair for pair in self.pairs if not pair[1].removed]

    def pick(self, number):
        live = self.live()
        return live[number % len(live)]

    def busy(self, memcg):
        return any(at is memcg for at in self.pids.values())

    def outcome(self, call, *args):
        try:
            call(*args)
        except OSError as error:
            return errno.errorcode[error.errno]
        return "ok"

    @rule(number=st.integers(0, 20), name=st.sampled_from("abc"))
    def make(self, number, name):
        memcg, group = self.pick(number)
        if memcg.path.count("/") <= 4:
            self.make_in(memcg, group, name)

    def make_in(self, memcg, group, name):
        path = f"{memcg.path}/{name}"
        theirs = self.model.make(name, group)
        ours = self.outcome(self.tree.make, path)
        if theirs == "EEXIST":
            assert ours == "EEXIST"
        else:
            assert ours == "ok"
            self.pairs.append((self.tree.find(path), theirs))

    @rule(number=st.integers(1, 20))
    def remove(self, number):
        memcg, group = self.pick(number)
        if group is self.model.root:
            return
        expected = self.model.remove(group, self.busy(memcg))
        assert self.outcome(self.tree.remove, memcg.path) == expected

    @rule(number=st.integers(0, 20), value=st.booleans())
    def set_hierarchy(self, number, value):
        memcg, group = self.pick(number)
        expected = self.model.set_hierarchy(group, value)
        text = str(int(value))
        got = self.outcome(self.tree.write, memcg.path, "memory.use_hierarchy", text)
        assert got == expected

    @rule(
        number=st.integers(0, 20),
        nr_pages=st.one_of(st.none(), st.integers(0, 12)),
        counter=st.sampled_from(COUNTERS),
    )
    def limit(self, number, nr_pages, counter):
        memcg, group = self.pick(number)
        value = UNLIMITED[self.kernel] if nr_pages is None else nr_pages * PAGE
        text = "-1" if nr_pages is None else str(value)
        if counter == "kmem":
            expected = self.model.set_kmem_limit(group, value, self.busy(memcg))
            file = "memory.kmem.limit_in_bytes"
        else:
            expected = self.model.set_memory_limit(group, value)
            file = "memory.limit_in_bytes"
        assert self.outcome(self.tree.write, memcg.path, file, text) == expected

    @rule(
        number=st.integers(0, 20),
        requests=st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(sorted(GFPS))), min_size=1, max_size=4
        ),
    )
    def charge(self, number, requests):
        memcg, group = self.pick(number)
        for order, gfp in requests:
            self.charge_one(memcg, group, PAGE << order, gfp)

    def charge_one(self, memcg, group, nbytes, gfp):
        gated = gfp == "nofail" and self.kernel != "5.10"
        forced = gfp == "nofail" or (gfp == "atomic" and self.kernel == "5.10")
        if gated:
            assert memcg.try_charge(nbytes, GFPS[gfp]) is None
            return
        theirs = self.try_model(group, nbytes, gfp, forced=forced)
        refusal = memcg.try_charge(nbytes, GFPS[gfp])
        assert (refusal is not None) == (theirs == "refused")
        if theirs == "charged":
            self.charged.append((memcg, group, nbytes))

    def try_model(self, group, nbytes, gfp, *, forced):
        attempts = attempts_of(self.kernel, gfp)
        if not forced or gfp == "nofail":
            return self.model.try_charge(group, nbytes, attempts, forced=forced)
        # 5.10 forces memory for atomic requests, but kmem still refuses them.
        kmem_full = any(
            self.model.usage(each, "kmem") + nbytes > each.limit["kmem"] for each in group.line()
        )
        if not (kmem_full and group.active):
            return self.model.try_charge(group, nbytes, attempts, forced=True)
        full = self.model._walk(group, "memory", nbytes)
        if full is not None:
            for each in group.line():
                peak = self.model.usage(each, "memory") + nbytes
                each.peak["memory"] = max(each.peak["memory"], peak)
        self.model._walk(group, "kmem", nbytes)
        return "refused"

    @rule(number=st.integers(0, 100))
    def uncharge(self, number):
        if not self.charged:
            return
        memcg, group, nbytes = self.charged.pop(number % len(self.charged))
        self.model.uncharge(group, nbytes)
        memcg.uncharge(nbytes)

    @rule(number=st.integers(0, 20))
    def fork(self, number):
        memcg, _ = self.pick(number)
        self.next_pid += 1
        self.tree.tasks.add(self.next_pid, memcg)
        self.pids[self.next_pid] = memcg

    @rule(number=st.integers(0, 100), to=st.integers(0, 20))
    def migrate(self, number, to):
        if not self.pids:
            return
        pid = sorted(self.pids)[number % len(self.pids)]
        memcg, _ = self.pick(to)
        self.tree.write(memcg.path, "cgroup.procs", str(pid))
        self.pids[pid] = memcg

    @rule(number=st.integers(0, 100))
    def exit(self, number):
        if not self.pids:
            return
        pid = sorted(self.pids)[number % len(self.pids)]
        del self.pids[pid]
        self.tree.tasks.exit(pid)

    @rule(
        number=st.integers(0, 20),
        counter=st.sampled_from(COUNTERS),
        what=st.sampled_from(("peak", "failures")),
    )
    def reset(self, number, counter, what):
        memcg, group = self.pick(number)
        self.model.reset(group, counter, what)
        prefix = "memory.kmem" if counter == "kmem" else "memory"
        file = "max_usage_in_bytes" if what == "peak" else "failcnt"
        self.tree.write(memcg.path, f"{prefix}.{file}", "0")

    @rule(number=st.integers(0, 20))
    def force_empty(self, number):
        memcg, group = self.pick(number)
        got = self.outcome(self.tree.write, memcg.path, "memory.force_empty", "0")
        in_use = self.busy(memcg) or self.model.children(group)
        if group is self.model.root:
            assert got == "EINVAL"
        elif self.kernel != "5.10" and in_use:
            assert got == "EBUSY"
        else:
            assert got == "ok"

    @invariant()
    def both_models_agree(self):
        TwoModels.steps += 1
        for memcg, group in getattr(self, "pairs", ()):
            assert memcg.accounts == group.active
            for name in COUNTERS:
                counter = getattr(memcg, name)
                assert counter.usage == self.model.usage(group, name)
                assert counter.max_usage == group.peak[name]
                assert counter.failcnt == group.failures[name]
                assert counter.limit == group.limit[name]

    @invariant()
    def a_parent_holds_its_own_and_its_hierarchical_childrens(self):
        for memcg, _ in getattr(self, "pairs", ()):
            own = sum(nbytes for owner, _, nbytes in self.charged if owner is memcg)
            below = [each for each, _ in self.pairs if each.hierarchical_parent is memcg]
            assert memcg.kmem.usage == own + sum(child.kmem.usage for child in below)
            assert memcg.kmem.usage >= 0
            assert memcg.memory.usage >= 0

    @invariant()
    def the_switch_counts_active_memcgs_not_yet_freed(self):
        if hasattr(self, "pairs"):
            alive = [each for each, _ in self.pairs if each.accounts and not each.freed]
            assert self.tree.switch_count == len(alive)


TwoModels.TestCase.settings = settings(
    max_examples=1_000 if LONG else 100,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestTwoModels = TwoModels.TestCase


def test_history_when_run_then_was_long_enough(record_property):
    """Count what the machine above really did: hypothesis may cut a history short."""
    if not TwoModels.steps:
        pytest.skip("runs after the state machine, in the same process")
    assert TwoModels.steps >= (20_000 if LONG else 500)
    record_property("steps", TwoModels.steps)
