"""How hard a kernel of 2012 tries before it refuses: who may ask for a kill, and what reclaim does."""

from __future__ import annotations

import pytest

from kmem_harness.core.charging import RECLAIM_ROUNDS, OomOutcome
from kmem_harness.core.gfp import GFP_KERNEL, GFP_NOFS, Gfp, Situation
from tests.core.bench import NORETRY, PAGE, STACK, USER, Lab, k, r

OLD = ("v4", "3.8", "3.12")
each_old = pytest.mark.parametrize("profile", OLD)
FS_ONLY = Gfp.FS | Gfp.ACCOUNT


@pytest.mark.parametrize(
    ("profile", "gfp", "asks"),
    [
        ("v4", GFP_KERNEL, True),
        ("v4", GFP_NOFS, True),
        ("v4", NORETRY, False),
        ("v4", FS_ONLY, False),
        ("3.8", GFP_KERNEL, True),
        ("3.8", GFP_NOFS, False),
        ("3.8", NORETRY, False),
        ("3.8", FS_ONLY, False),
        ("3.12", GFP_KERNEL, False),
        ("3.12", GFP_NOFS, False),
    ],
)
def test_kill_when_memory_is_full_then_only_some_requests_ask_for_it(profile, gfp, asks):
    """K43, K46."""
    lab = Lab(profile)
    g = lab.group(k="1M", u=0)
    asked = []
    lab.tree.oom = lambda culprit, _request: asked.append(culprit) or OomOutcome.FAILED
    assert lab.fork(g, gfp) is None
    assert asked == [g] * asks
    assert k(g)[0] == 0


@pytest.mark.parametrize("profile", ["v4", "3.8"])
@pytest.mark.parametrize("at", range(1, 7))
def test_signal_when_it_comes_during_any_reclaim_then_the_next_attempt_is_not_made(profile, at):
    """K44, K47: failcnt stops at the batch and the attempts so far, and the charge is forced."""
    lab = Lab(profile)
    g = lab.group(k="1M", u=0)
    asked = []

    def reclaim(_culprit, request, *, swap):
        asked.append(swap)
        # Two fruitless rounds for each attempt.
        if len(asked) == 2 * at:
            request.situation |= Situation.FATAL_SIGNAL
        return 0

    lab.tree.reclaimer = reclaim
    assert lab.fork(g)
    assert r(g) == (STACK, STACK, 2 + (at - 1) + 1)
    assert k(g)[0] == STACK


@each_old
def test_reclaim_when_the_first_round_is_fruitless_then_the_second_drains_the_subtree(profile):
    """K45, K55: a sibling's stock was all that filled the parent."""
    lab = Lab(profile)
    lab.group("a", hierarchy=True)
    b, c = lab.group("a/b", k="1M"), lab.group("a/c", k="1M")
    lab.write("a", USER, 32 * PAGE)
    assert lab.order(c, 0)
    seen = []

    def reclaim(culprit, _request, *, swap):
        seen.append((culprit.path, lab.stocked_pages))
        return 0

    lab.tree.reclaimer = reclaim
    assert lab.order(b, 4)
    assert seen == [("/a", 31), ("/a", 0)]


@each_old
def test_reclaim_when_a_little_comes_each_time_then_goes_on_for_a_hundred_rounds(profile):
    """K45: until margin or the rounds are gone."""
    lab = Lab(profile, stock=False)
    g = lab.group(k="1M", u=0)
    rounds = []

    def reclaim(_culprit, _request, *, swap):
        rounds.append(swap)
        return PAGE if len(rounds) <= RECLAIM_ROUNDS else 0

    lab.tree.reclaimer = reclaim
    lab.order(g, 6)
    assert rounds[:RECLAIM_ROUNDS] == [True] * RECLAIM_ROUNDS


@each_old
@pytest.mark.parametrize(("order", "attempts"), [(3, 11), (4, 1)])
def test_small_request_when_anything_was_freed_then_tries_again_for_nothing(
    profile, order, attempts
):
    """K42.6: as long as something comes, for up to 8 pages; never for more."""
    lab = Lab(profile, stock=False)
    g = lab.group(k="1G", u=0)
    rounds = iter(range(10 * RECLAIM_ROUNDS))
    # One page in each hundred rounds, ten times.
    lab.tree.reclaimer = lambda *_, **__: PAGE * (next(rounds, 1) % RECLAIM_ROUNDS == 0)
    lab.tree.oom = lambda *_: OomOutcome.FAILED
    assert lab.order(g, order, GFP_NOFS) is None
    # Without FS that is the end from 3.8 on; v4 has its five credits left.
    assert g.memory.failcnt >= attempts
    assert g.memory.failcnt <= attempts + 5 * (profile == "v4")


@each_old
def test_charge_when_its_task_moves_meanwhile_then_stays_with_the_group_first_chosen(profile):
    """K35: the pin outlives the move."""
    lab = Lab(profile, stock=False)
    a, b = lab.group("a", k="1M", u=STACK), lab.group("b", k="1M")
    lab.tree.tasks.add(1, a)
    a.try_charge_user(PAGE)

    def reclaim(culprit, _request, *, swap):
        if lab.tree.tasks.processes[1].memcg is a:
            lab.tree.attach(1, "b")
            culprit.uncharge_user(PAGE)
            return PAGE
        return 0

    lab.tree.reclaimer = reclaim
    page = lab.fork(lab.tree.tasks.processes[1].memcg)
    assert page is not None
    assert page.memcg is a
    assert (a.kmem.usage, b.kmem.usage) == (STACK, 0)
    lab.pages.free(page)
    assert a.kmem.usage == 0


@each_old
def test_inactive_group_when_removed_then_never_becomes_a_zombie(profile):
    """K79: no DEAD bit, no reference for charges it never had."""
    lab = Lab(profile)
    g = lab.group()
    assert lab.fork(g)
    lab.tree.remove("g")
    assert (g.dead, g.refs, g.freed) == (False, 0, True)


@each_old
def test_memsw_when_it_refuses_then_reclaim_does_not_swap(profile):
    """K45, K49."""
    lab = Lab(profile, stock=False, swap_accounting=True)
    g = lab.group(k="1M", u=STACK)
    lab.write("g", "memory.memsw.limit_in_bytes", STACK)
    g.memsw.charge(PAGE)
    swaps = []

    def reclaim(_culprit, _request, *, swap):
        swaps.append(swap)
        return 0

    lab.tree.reclaimer = reclaim
    assert lab.fork(g, GFP_NOFS) is None
    assert set(swaps) == {False}
