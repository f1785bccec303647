"""5.10's own rules: no bypass for the dying, OOM step by step, slab objects re-parented (K110)."""

from __future__ import annotations

import pytest

from kmem_harness.core.charging import OomOutcome
from kmem_harness.core.deferred import Deferred
from kmem_harness.core.gfp import GFP_ATOMIC, GFP_KERNEL, Gfp, Situation
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from tests.core.bench import PAGE, Lab, k, r

# One batch, the exact size, once more after draining, and the retries (K42, K48).
FIRST_ROUND, NEXT_ROUND = 3 + 16, 1 + 16


@pytest.fixture
def lab():
    return Lab("5.10")


def test_oom_kill_when_the_asking_task_is_the_victim_then_one_more_round_and_enomem(lab):
    """Two rounds make the 36 failures of four recorded kills; usage stays within the limit."""
    g = lab.group(u=0)

    def kill(_culprit, request):
        request.situation |= Situation.OOM_VICTIM
        return OomOutcome.KILLED

    lab.tree.oom = kill
    assert lab.order(g, 0) is None
    assert g.memory.failcnt == FIRST_ROUND + NEXT_ROUND == 36
    assert (g.memory.usage, g.memory.max_usage) == (0, 0)


def test_oom_kill_when_it_makes_room_then_the_charge_succeeds(lab):
    g = lab.group(u=PAGE)
    page = lab.order(g, 0)

    def kill(_culprit, _request):
        lab.pages.free(page)
        return OomOutcome.KILLED

    lab.tree.oom = kill
    assert lab.order(g, 0) is not None
    assert g.memory.usage == PAGE


def test_oom_kill_when_nobody_can_be_killed_then_enomem_without_force(lab):
    g = lab.group(u=0)
    lab.tree.oom = lambda _culprit, _request: OomOutcome.FAILED
    assert lab.order(g, 0) is None
    assert g.memory.failcnt == FIRST_ROUND
    assert g.memory.usage == 0


def test_dying_task_when_at_the_limit_then_nobody_else_is_killed_for_it(lab):
    g = lab.group(u=0)
    asked = []
    lab.tree.oom = lambda culprit, _request: asked.append(culprit) or OomOutcome.KILLED
    assert lab.order(g, 0, situation=Situation.FATAL_SIGNAL) is None
    assert not asked
    assert g.memory.failcnt == FIRST_ROUND + NEXT_ROUND


def test_large_block_when_at_the_limit_then_nobody_is_killed_for_it(lab):
    g = lab.group(u=0)
    lab.tree.oom = lambda *_: pytest.fail("asked for a kill")
    assert lab.order(g, 4) is None


@pytest.mark.parametrize("gfp", [GFP_ATOMIC, GFP_KERNEL | Gfp.NOFAIL])
def test_request_when_it_must_not_fail_then_only_that_is_forced(lab, gfp):
    """K32, K110: atomic requests are forced past memory, NOFAIL past kmem too."""
    g = lab.group(u=0)
    lab.tree.oom = lambda *_: pytest.fail("asked for a kill")
    assert lab.order(g, 0, gfp) is not None
    assert (g.memory.usage, g.kmem.usage) == (PAGE, PAGE)


def test_objects_when_their_memcg_is_removed_then_the_parent_has_them():
    """The child is freed though its objects live on; a page keeps it as a zombie (K81, K110)."""
    tree = MemcgTree(profile_named("5.10"), use_hierarchy=True)
    tree.make("p")
    p, child = tree.find("p"), tree.make("p/c")
    for _ in range(30):
        assert tree.try_charge_object(child, 1000) is None
    assert p.kmem.usage == child.kmem.usage == 8 * PAGE
    tree.remove("p/c")
    assert child.freed
    assert p.kmem.usage == 8 * PAGE
    for _ in range(30):
        tree.uncharge_object(child, 1000)
    assert p.kmem.usage <= PAGE
    assert p.object_nbytes == p.kmem.usage


def test_objects_when_the_parent_goes_too_then_end_at_the_root():
    tree = MemcgTree(profile_named("5.10"), use_hierarchy=True, stock=False)
    tree.make("p")
    child = tree.make("p/c")
    assert tree.try_charge_object(child, 5000) is None
    tree.remove("p/c")
    tree.remove("p")
    assert (tree.root.kmem.usage, tree.root.object_nbytes) == (5000, 5000)
    tree.uncharge_object(child, 5000)
    assert (tree.root.kmem.usage, tree.root.memory.usage) == (0, 0)


def test_use_hierarchy_when_a_removed_child_still_has_pages_then_is_busy():
    """K76: css_next_child sees a removed memcg until its last reference is gone."""
    tree = MemcgTree(profile_named("5.10"), deferred=Deferred(immediate=False))
    tree.make("g")
    child = tree.make("g/c")
    assert child.try_charge(PAGE) is None
    tree.remove("g/c")
    tree.deferred.settle()
    with pytest.raises(OSError, match="K76"):
        tree.write("g", "memory.use_hierarchy", "1")
    child.uncharge(PAGE)
    tree.deferred.settle()
    tree.write("g", "memory.use_hierarchy", "1")


def test_stack_when_charged_page_by_page_then_a_refusal_leaves_nothing(lab):
    """K98, K110."""
    g = lab.group(k=2 * PAGE)
    assert not lab.order(g, 2)
    assert (k(g)[0], r(g)[2]) == (0, 0)
