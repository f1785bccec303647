"""The worked examples T1-T49 of the semantics reference, each in every profile it names."""

from __future__ import annotations

import errno

import pytest

from kmem_harness.core.charging import OomOutcome
from kmem_harness.core.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_NOFS, Gfp, Situation
from tests.core.bench import KMEM, MIB, NORETRY, PAGE, STACK, USER, Lab, fails, k, r

ALL = ("v4", "3.8", "3.12", "5.10")
OLD = ("v4", "3.8", "3.12")
# Vectors without a profile are M38's; most hold word for word in its successor.
MERGED = ("3.8", "3.12")

# Which rules each example works through, as the reference's last column says.
RULES = {
    "T1": "K1 K2 K25",
    "T2": "K32 K34 K62",
    "T3": "K21 K42 K50 K62 K77",
    "T4": "K51",
    "T5": "K42 K52",
    "T6": "K54 K58 K90",
    "T7": "K37 K38 K40 K91",
    "T8": "K39 K40 K54",
    "T9": "K6 K61 K62",
    "T10": "K39 K40",
    "T11": "K65 K83",
    "T12": "K65 K70",
    "T13": "K62 K67",
    "T14": "K17 K66",
    "T15": "K11 K23 K67 K68",
    "T16": "K12 K26",
    "T17": "K3 K4 K70",
    "T18": "K3 K4 K68",
    "T19": "K52 K56",
    "T20": "K70 K75",
    "T21": "K72",
    "T22": "K40 K42 K48",
    "T23": "K39 K48",
    "T24": "K43 K48",
    "T25": "K46 K48",
    "T26": "K46",
    "T27": "K7 K44 K47",
    "T28": "K4 K7 K47",
    "T29": "K4 K42",
    "T30": "K48 K60",
    "T31": "K38 K39 K40",
    "T32": "K42 K45",
    "T33": "K45 K48 K51 K55",
    "T34": "K51 K53",
    "T35": "K52",
    "T36": "K49",
    "T37": "K36",
    "T38": "K32 K37",
    "T39": "K33 K58 K83 K89",
    "T40": "K78 K79 K80",
    "T41": "K55 K70 K81",
    "T42": "K82",
    "T43": "K73",
    "T44": "K55 K84",
    "T45": "K18-K23",
    "T46": "K17-K21",
    "T47": "K24 K62",
    "T48": "K29",
    "T49": "K110",
}


def vector(number, *profiles):
    """Run a test once for each profile the vector names, with number and rules as its id."""
    rules = RULES[number].replace(" ", "+")
    params = [
        pytest.param(Lab(name).profile.name, id=f"{number}-{name}-{rules}") for name in profiles
    ]
    return pytest.mark.parametrize("profile", params)


def marked(request_hook):
    """Wrap a reclaim hook that frees nothing but is told of each request."""

    def reclaim(_culprit, request, *, swap):
        request_hook(request)
        return 0

    return reclaim


@vector("T1", *ALL)
def test_new_group_when_read_then_shows_the_kernels_unlimited_and_zeros(profile):
    lab = Lab(profile)
    lab.group()
    unlimited = {"3.12": 18446744073709551615, "5.10": 9223372036854771712}
    assert lab.read("g") == unlimited.get(profile, 9223372036854775807)
    for file in ("usage_in_bytes", "max_usage_in_bytes", "failcnt"):
        assert lab.read("g", f"memory.kmem.{file}") == 0


@vector("T2", *OLD)
def test_fork_when_never_limited_then_nothing_is_charged(profile):
    lab = Lab(profile)
    g = lab.group()
    assert all(lab.forks(g, 3))
    assert (k(g), r(g), lab.tree.switch_count) == ((0, 0, 0), (0, 0, 0), 0)


@vector("T3", *OLD)
def test_first_fork_when_limited_then_charges_kmem_exactly_and_a_batch_of_memory(profile):
    lab = Lab(profile)
    g = lab.group(k="1M")
    assert lab.read("g") == MIB
    assert lab.fork(g)
    assert (k(g), r(g), lab.stocked_pages) == ((STACK, STACK, 0), (131072, 131072, 0), 30)
    assert (lab.tree.switch_count, g.refs) == (1, 2)


@vector("T4", *OLD)
def test_forks_when_stocked_then_use_up_the_stock(profile):
    lab = Lab(profile)
    g = lab.group(k="1M")
    lab.forks(g, 16)
    assert (k(g), r(g), lab.stocked_pages) == ((131072, 131072, 0), (131072, 131072, 0), 0)


@vector("T5", *OLD)
def test_fork_when_stock_is_empty_then_charges_another_batch(profile):
    lab = Lab(profile)
    g = lab.group(k="1M")
    lab.forks(g, 17)
    assert (k(g), r(g), lab.stocked_pages) == ((139264, 139264, 0), (262144, 262144, 0), 30)


@vector("T6", *OLD)
def test_exits_when_all_reaped_then_leave_only_the_stock(profile):
    lab = Lab(profile)
    g = lab.group(k="1M")
    for page in lab.forks(g, 17):
        lab.pages.free(page)
    assert (k(g), r(g), lab.stocked_pages) == ((0, 139264, 0), (122880, 262144, 0), 30)


@vector("T7", *MERGED)
def test_fork_when_kmem_is_full_then_fails_without_touching_memory(profile):
    lab = Lab(profile)
    g = lab.group(k=16384)
    assert [page is None for page in lab.forks(g, 3)] == [False, False, True]
    assert (k(g), r(g), lab.stocked_pages) == ((16384, 16384, 1), (131072, 131072, 0), 28)


@vector("T8", "v4")
def test_fork_when_kmem_is_full_in_v4_then_memory_is_given_back_past_the_stock(profile):
    lab = Lab(profile)
    g = lab.group(k=16384)
    assert [page is None for page in lab.forks(g, 3)] == [False, False, True]
    assert (k(g), r(g), lab.stocked_pages) == ((16384, 16384, 1), (122880, 131072, 0), 26)


@vector("T9", *MERGED)
def test_fork_when_limit_is_zero_then_fails_at_once(profile):
    lab = Lab(profile)
    g = lab.group(k=0)
    assert g.accounts
    assert lab.fork(g) is None
    assert (k(g), r(g)) == ((0, 0, 1), (0, 0, 0))


@vector("T10", "v4")
def test_fork_when_limit_is_zero_in_v4_then_leaves_a_stock(profile):
    lab = Lab(profile)
    g = lab.group(k=0)
    assert lab.fork(g) is None
    assert (k(g), r(g), lab.stocked_pages) == ((0, 0, 1), (122880, 131072, 0), 30)


@vector("T11", *OLD)
def test_activation_when_a_task_lives_here_then_is_busy(profile):
    lab = Lab(profile)
    g = lab.group()
    lab.tree.tasks.add(100, g)
    with fails(errno.EBUSY):
        lab.limit("g", "1M")
    assert not g.accounts
    lab.tree.attach(100, "/")
    lab.limit("g", "1M")
    lab.tree.attach(100, "g")
    assert k(g) == (0, 0, 0)


@vector("T12", *OLD)
def test_activation_when_children_exist_then_only_hierarchy_makes_it_busy(profile):
    lab = Lab(profile)
    a = lab.group("a", hierarchy=True)
    lab.group("a/b")
    with fails(errno.EBUSY):
        lab.limit("a", "1M")
    assert not a.accounts
    c = lab.group("c")
    d = lab.group("c/d")
    lab.limit("c", "1M")
    assert c.accounts
    assert not d.accounts


@vector("T13", *OLD)
def test_unlimit_when_never_active_then_changes_nothing_and_later_keeps_accounting(profile):
    lab = Lab(profile)
    g = lab.group(k=-1)
    lab.fork(g)
    assert (g.accounts, k(g)) == (False, (0, 0, 0))
    lab.limit("g", "1M")
    lab.fork(g)
    assert g.kmem.usage == STACK
    lab.limit("g", -1)
    lab.fork(g)
    assert lab.read("g") == lab.profile.unlimited
    assert (g.accounts, k(g)) == (True, (16384, 16384, 0))


@vector("T14", *ALL)
def test_limit_when_written_to_the_root_then_is_invalid(profile):
    lab = Lab(profile)
    for text in ("1M", "-1", "junk"):
        with fails(errno.EINVAL):
            lab.limit("/", text)


@vector("T15", *MERGED)
def test_limit_when_below_usage_then_is_busy_and_rounds_up_elsewhere(profile):
    lab = Lab(profile)
    g = lab.group(k=16384)
    lab.forks(g, 3)
    with fails(errno.EBUSY):
        lab.limit("g", 8192)
    lab.limit("g", 16384)
    lab.limit("g", 12289)
    assert lab.read("g") == 16384
    lab.limit("g", -1)
    assert lab.fork(g)
    assert (k(g), lab.stocked_pages) == ((24576, 24576, 1), 26)


@vector("T16", *OLD)
def test_resets_when_written_then_max_starts_from_usage(profile):
    lab = Lab(profile)
    g = lab.group(k=16384)
    pages = lab.forks(g, 3)
    lab.pages.free(pages[0])
    lab.write("g", "memory.kmem.failcnt", "x")
    lab.write("g", "memory.kmem.max_usage_in_bytes", "x")
    assert k(g) == (STACK, STACK, 0)


@vector("T17", *MERGED)
def test_child_when_parent_refuses_then_keeps_a_peak_it_never_held(profile):
    lab = Lab(profile)
    a = lab.group("a", hierarchy=True, k=16384)
    b = lab.group("a/b")
    assert (b.accounts, b.kmem.unlimited, lab.tree.switch_count) == (True, True, 2)
    assert lab.forks(b, 3)[2] is None
    assert (k(a), k(b)) == ((16384, 16384, 1), (16384, 24576, 0))
    assert r(a) == r(b) == (131072, 131072, 0)


def _two_children(profile):
    lab = Lab(profile)
    a = lab.group("a", hierarchy=True, k=24576)
    b, c = lab.group("a/b", k=16384), lab.group("a/c")
    assert lab.forks(b, 3)[2] is None
    assert lab.forks(c, 2)[1] is None
    return lab, a, b, c


@vector("T18", *MERGED)
def test_siblings_when_sharing_a_parent_then_each_fails_where_it_is_full(profile):
    _, a, b, c = _two_children(profile)
    assert (k(a), k(b), k(c)) == ((24576, 24576, 1), (16384, 16384, 1), (8192, 16384, 0))


@vector("T19", *MERGED)
def test_stock_when_owner_changes_then_is_given_back(profile):
    lab, a, b, c = _two_children(profile)
    assert r(a) == (147456, 262144, 0)
    assert r(b) == (16384, 131072, 0)
    assert r(c) == (131072, 131072, 0)
    assert (lab.stocked_pages, lab.tree.cpu_stock.memcg) == (30, c)


@vector("T20", *OLD)
def test_child_when_parent_is_not_hierarchical_then_is_free(profile):
    lab = Lab(profile)
    a = lab.group("a", k=16384)
    b = lab.group("a/b")
    assert all(lab.forks(b, 5))
    assert (k(a), k(b)) == ((0, 0, 0), (0, 0, 0))
    assert (b.accounts, lab.tree.switch_count) == (False, 1)


@vector("T21", *OLD)
def test_inactive_parent_when_child_charges_then_counts_and_cannot_activate(profile):
    lab = Lab(profile)
    a = lab.group("a", hierarchy=True)
    b = lab.group("a/b", k="1M")
    lab.fork(b)
    assert (a.accounts, k(a)) == (False, (STACK, STACK, 0))
    assert a.memory.usage == b.memory.usage == 131072
    with fails(errno.EBUSY):
        lab.limit("a", "1M")


@vector("T22", *MERGED)
def test_noretry_fork_when_memory_is_full_then_fails_after_batch_and_exact(profile):
    lab = Lab(profile)
    g = lab.group(k="1M", u=8192)
    assert lab.fork(g, NORETRY)
    assert lab.fork(g, NORETRY) is None
    assert (k(g), r(g)) == ((8192, 16384, 0), (8192, 8192, 3))


@vector("T23", "v4")
def test_noretry_fork_when_memory_is_full_in_v4_then_kmem_was_never_touched(profile):
    lab = Lab(profile)
    g = lab.group(k="1M", u=8192)
    assert lab.fork(g, NORETRY)
    assert lab.fork(g, NORETRY) is None
    assert (k(g), r(g)) == ((8192, 8192, 0), (8192, 8192, 3))


@vector("T24", *MERGED)
@pytest.mark.parametrize("gfp", [GFP_ATOMIC, GFP_NOFS], ids=["atomic", "no FS"])
def test_fork_when_it_may_not_oom_then_fails_as_noretry_does(profile, gfp):
    lab = Lab(profile)
    g = lab.group(k="1M", u=8192)
    assert lab.fork(g, gfp)
    assert lab.fork(g, gfp) is None
    assert (k(g), r(g)) == ((8192, 16384, 0), (8192, 8192, 3))


@vector("T24", "v4")
def test_fork_without_fs_when_in_v4_then_enters_the_oom_step(profile):
    lab = Lab(profile)
    g = lab.group(k="1M", u=8192)
    asked = []
    lab.tree.oom = lambda culprit, _request: asked.append(culprit) or OomOutcome.FAILED
    first = lab.fork(g, GFP_NOFS)
    assert first
    assert lab.fork(g, GFP_NOFS) is None
    assert asked == [g]
    assert r(g) == (8192, 8192, 8)


@vector("T25", "3.12")
def test_fork_when_memory_is_full_in_3_12_then_fails_instead_of_killing(profile):
    """K93."""
    lab = Lab(profile)
    g = lab.group(k="1M", u=8192)
    lab.tree.oom = lambda *_: pytest.fail("the OOM killer ran")
    assert lab.fork(g)
    assert lab.fork(g) is None
    assert (k(g), r(g)) == ((8192, 16384, 0), (8192, 8192, 8))


@vector("T26", "3.8")
def test_fork_when_memory_is_full_in_3_8_then_kills_and_succeeds(profile):
    """K93, K117: the victim is the test's choice."""
    lab = Lab(profile)
    g = lab.group(k="1M", u=8192)
    first = lab.fork(g)
    at_oom = []

    def oom(culprit, _request):
        at_oom.append(culprit.memory.failcnt)
        lab.pages.free(first)
        return OomOutcome.KILLED

    lab.tree.oom = oom
    assert lab.fork(g)
    assert at_oom == [8]
    assert (k(g), r(g)) == ((8192, 16384, 0), (8192, 8192, 8))


def _kill_on_reclaim(lab):
    def arrive(request):
        request.situation |= Situation.FATAL_SIGNAL

    lab.tree.reclaimer = marked(arrive)


@vector("T27", "3.8")
def test_fork_when_killed_while_reclaiming_then_is_forced_over_the_memory_limit(profile):
    lab = Lab(profile)
    g = lab.group(k="1M", u=8192)
    lab.fork(g)
    _kill_on_reclaim(lab)
    assert lab.fork(g)
    assert (k(g), r(g)) == ((16384, 16384, 0), (16384, 16384, 4))


@vector("T28", "3.8")
def test_forced_charge_when_several_levels_are_over_then_each_counts(profile):
    lab = Lab(profile)
    a = lab.group("a", hierarchy=True, k="1M")
    b = lab.group("a/b")
    lab.write("a", USER, 8192)
    lab.write("a/b", USER, 8192)
    lab.fork(b)
    assert (r(b), r(a)) == ((8192, 8192, 1), (8192, 8192, 0))
    _kill_on_reclaim(lab)
    assert lab.fork(b)
    assert (r(b), r(a)) == ((16384, 16384, 4), (16384, 16384, 1))
    assert k(a) == k(b) == (16384, 16384, 0)


@vector("T29", *MERGED)
def test_noretry_fork_when_the_parents_memory_is_full_then_child_keeps_the_batch_peak(profile):
    lab = Lab(profile)
    a = lab.group("a", hierarchy=True, k="1M")
    b = lab.group("a/b")
    lab.write("a", USER, 16384)
    assert lab.forks(b, 3, NORETRY)[2] is None
    assert (r(a), r(b)) == ((16384, 16384, 4), (16384, 147456, 0))
    assert k(a) == k(b) == (16384, 24576, 0)


@vector("T30", *MERGED)
def test_noretry_forks_when_only_tracking_then_stop_at_the_memory_limit(profile):
    lab = Lab(profile)
    g = lab.group(k="1M", u=65536)
    assert [page is None for page in lab.forks(g, 9, NORETRY)] == [False] * 8 + [True]
    assert (k(g), r(g)) == ((65536, 73728, 0), (65536, 65536, 10))


@vector("T31", "3.8", "v4")
def test_third_fork_when_both_are_nearly_full_then_the_first_counter_asked_refuses(profile):
    lab = Lab(profile)
    g = lab.group(k=16384, u=65536)
    g.memory.charge(49152)
    assert lab.forks(g, 3, NORETRY)[2] is None
    expected = {"3.8": ((16384, 16384, 1), 2), "v4": ((16384, 16384, 0), 4)}[profile]
    assert (k(g), r(g)) == (expected[0], (65536, 65536, expected[1]))


@vector("T32", "3.8")
def test_ninth_fork_when_user_pages_can_be_reclaimed_then_succeeds(profile):
    lab = Lab(profile)
    g = lab.group(k="1M", u="1M")
    g.memory.charge(983040)
    g.lru_nbytes = 983040

    def reclaim(culprit, _request, *, swap):
        culprit.uncharge_user(32 * PAGE)
        return 32 * PAGE

    lab.tree.reclaimer = reclaim
    assert all(lab.forks(g, 8))
    assert (g.kmem.usage, r(g)) == (65536, (1048576, 1048576, 8))
    assert lab.fork(g)
    assert (k(g), r(g)) == ((73728, 73728, 0), (925696, 1048576, 10))


@vector("T33", "3.12")
def test_fork_when_reclaim_drains_the_stock_then_still_fails_by_a_page(profile):
    lab = Lab(profile)
    g = lab.group(k="1M", u=131072)
    assert all(lab.order(g, 0) for _ in range(31))
    assert (g.kmem.usage, g.memory.usage, lab.stocked_pages) == (126976, 131072, 1)
    assert lab.fork(g) is None
    assert (k(g), r(g), lab.stocked_pages) == ((126976, 135168, 0), (126976, 131072, 7), 0)
    assert lab.order(g, 0)
    assert (k(g), r(g)) == ((131072, 135168, 0), (131072, 131072, 8))


@vector("T34", *OLD)
def test_large_requests_when_over_a_batch_then_leave_the_stock_alone(profile):
    lab = Lab(profile)
    g = lab.group(k="1G")
    seen = []
    for order in (6, 0, 5):
        lab.order(g, order)
        seen.append((g.kmem.usage, g.memory.usage, lab.stocked_pages))
    assert seen == [(262144, 262144, 0), (266240, 393216, 31), (397312, 524288, 31)]


@vector("T35", *OLD)
def test_two_groups_when_taking_turns_then_the_stock_changes_hands(profile):
    lab = Lab(profile)
    a, b = lab.group("a", k="1M"), lab.group("b", k="1M")
    lab.fork(a)
    assert r(a) == (131072, 131072, 0)
    lab.fork(b)
    assert (a.memory.usage, b.memory.usage) == (8192, 131072)
    lab.fork(a)
    assert (r(a), r(b)) == ((139264, 139264, 0), (8192, 131072, 0))
    assert (a.kmem.usage, b.kmem.usage) == (16384, 8192)


@vector("T36", *MERGED)
def test_fork_when_memsw_is_full_then_memory_is_taken_back(profile):
    lab = Lab(profile, swap_accounting=True)
    g = lab.group(k="1M", u=65536)
    lab.write("g", "memory.memsw.limit_in_bytes", 65536)
    g.memsw.charge(32768)
    assert lab.order(g, 3, NORETRY)
    memsw = g.memsw
    assert (g.kmem.usage, r(g)) == (32768, (32768, 32768, 1))
    assert (memsw.usage, memsw.max_usage, memsw.failcnt) == (65536, 65536, 0)
    assert lab.fork(g, NORETRY) is None
    assert (k(g), r(g)) == ((32768, 40960, 0), (32768, 40960, 2))
    assert (memsw.usage, memsw.max_usage, memsw.failcnt) == (65536, 65536, 1)


@vector("T37", *OLD)
def test_fork_when_there_is_no_page_then_the_charge_is_reverted(profile):
    lab = Lab(profile)
    g = lab.group(k="1M")
    lab.pages.has_pages = lambda: False
    assert lab.fork(g) is None
    assert (k(g), r(g), lab.stocked_pages) == ((0, 8192, 0), (122880, 131072, 0), 30)


@vector("T38", *MERGED)
@pytest.mark.parametrize(
    ("gfp", "situation"),
    [
        (GFP_KERNEL, Situation.KERNEL_THREAD),
        (GFP_KERNEL | Gfp.NOFAIL, Situation.NORMAL),
        (GFP_KERNEL, Situation.INTERRUPT),
        (GFP_KERNEL, Situation.NO_MM),
        (GFP_KERNEL, Situation.FATAL_SIGNAL),
        (Gfp.WAIT | Gfp.FS, Situation.NORMAL),
    ],
    ids=["kernel thread", "NOFAIL", "interrupt", "no mm", "SIGKILL", "no flag"],
)
def test_request_when_exempt_then_is_allowed_and_never_counted(profile, gfp, situation):
    lab = Lab(profile)
    g = lab.group(k=0)
    page = lab.fork(g, gfp, situation)
    assert page is not None
    lab.limit("g", "1M")
    lab.pages.free(page)
    assert (k(g), r(g)) == ((0, 0, 0), (0, 0, 0))


@vector("T39", *OLD)
def test_child_when_moved_then_its_stack_stays_where_it_was_made(profile):
    lab = Lab(profile)
    a, b = lab.group("a", k="1M"), lab.group("b", k="1M")
    lab.tree.tasks.add(1, a)
    stack = lab.fork(a)
    lab.tree.tasks.add(2, a)
    lab.tree.attach(2, "b")
    assert (a.kmem.usage, b.kmem.usage) == (8192, 0)
    lab.fork(lab.tree.tasks.processes[2].memcg)
    assert b.kmem.usage == 8192
    lab.pages.free(stack)
    assert (a.kmem.usage, b.kmem.usage) == (0, 8192)


@vector("T40", *OLD)
def test_rmdir_when_stacks_remain_then_a_zombie_waits_for_the_last_one(profile):
    lab = Lab(profile)
    g = lab.group(k="1M")
    first, second = lab.forks(g, 2)
    lab.tree.remove("g")
    assert (lab.tree.switch_count, g.refs) == (1, 1)
    lab.pages.free(first)
    assert (g.refs, g.dead) == (1, True)
    lab.tree.deferred.immediate = False
    lab.pages.free(second)
    assert (g.refs, lab.tree.switch_count, g.freed) == (0, 1, False)
    assert lab.tree.deferred.step() == "rcu"
    assert lab.tree.deferred.step() == "free-worker"
    assert (lab.tree.switch_count, g.freed) == (0, True)


def _zombie_child(profile, **options):
    lab = Lab(profile, **options)
    a = lab.group("a", hierarchy=True, k="1M")
    b = lab.group("a/b")
    stacks = lab.forks(b, 2)
    lab.tree.remove("a/b")
    return lab, a, b, stacks


@vector("T41", *OLD)
def test_zombie_child_when_stacks_remain_then_counts_in_the_parent(profile):
    lab, a, _, stacks = _zombie_child(profile)
    assert (a.kmem.usage, a.memory.usage, lab.tree.switch_count) == (16384, 16384, 2)
    for stack in stacks:
        lab.pages.free(stack)
    assert (a.kmem.usage, a.memory.usage, lab.tree.switch_count) == (0, 0, 1)


@vector("T42", *OLD)
@pytest.mark.parametrize("leak_corner", [True, False], ids=["faithful", "intended"])
def test_parent_when_removed_before_its_zombie_child_then_leaks_only_faithfully(
    profile, leak_corner
):
    lab, a, b, stacks = _zombie_child(profile, leak_corner=leak_corner)
    lab.pages.free(stacks[0])
    lab.tree.remove("a")
    lab.pages.free(stacks[1])
    assert b.freed
    assert a.kmem.usage == 0
    assert (a.refs, lab.tree.switch_count) == ((1, 1) if leak_corner else (0, 0))
    assert a.freed is not leak_corner


@vector("T43", "v4", "3.8")
def test_activation_when_zombies_left_usage_then_v4_is_busy_and_3_8_drops_the_limit(profile):
    """K73."""
    lab = Lab(profile)
    a = lab.group("a", hierarchy=True)
    b = lab.group("a/b", k="1M")
    lab.forks(b, 2)
    lab.tree.remove("a/b")
    if profile == "v4":
        with fails(errno.EBUSY):
            lab.limit("a", 8192)
        assert not a.accounts
    else:
        lab.limit("a", 8192)
        assert (a.accounts, a.kmem.unlimited) == (True, True)


@vector("T44", *OLD)
def test_force_empty_when_only_stacks_remain_then_succeeds_and_drains(profile):
    lab = Lab(profile)
    g = lab.group(k="1M")
    lab.forks(g, 2)
    lab.write("g", "memory.force_empty", "0")
    assert (g.kmem.usage, g.memory.usage, lab.stocked_pages) == (16384, 16384, 0)


@vector("T45", *OLD)
@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("5000", 8192),
        ("4k", 4096),
        ("0x1000", 4096),
        ("010", 4096),
        ("1m\n", 1048576),
        ("  2g ", 2147483648),
        ("", 0),
        ("k", 0),
        ("-01", None),
    ],
)
def test_limit_text_when_accepted_then_reads_back_rounded(profile, text, limit):
    lab = Lab(profile)
    lab.group(k="1M")
    lab.limit("g", text)
    assert lab.read("g") == (lab.profile.unlimited if limit is None else limit)


@vector("T46", *OLD)
@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((text, errno.EINVAL) for text in ("08", "1kb", "1.5M", "+5", "1T", "-2", "-1k", "0x")),
        (" " * 63, errno.E2BIG),
    ],
)
def test_limit_text_when_malformed_then_changes_nothing(profile, text, number):
    lab = Lab(profile)
    lab.group(k="1M")
    with fails(number):
        lab.limit("g", text)
    assert lab.read("g") == MIB


@vector("T47", "3.8")
def test_limit_text_when_at_the_top_of_the_range_then_wraps_or_counts(profile):
    lab = Lab(profile)
    g = lab.group(k="9223372036854775807")
    assert (lab.read("g"), g.accounts) == (9223372036854775808, True)
    lab.limit("g", "18446744073709551615")
    assert lab.read("g") == 0
    with fails(errno.EINVAL):
        lab.write("g", USER, "9223372036854775807")


@vector("T48", *ALL)
def test_open_file_when_the_group_is_removed_then_reads_no_device(profile):
    """K29."""
    lab = Lab(profile)
    lab.group()
    file = lab.tree.open("g", "memory.kmem.usage_in_bytes")
    assert file.read() == "0\n"
    lab.tree.remove("g")
    with fails(errno.ENODEV):
        file.read()


@vector("T49", "5.10")
def test_four_page_stack_when_two_fit_then_fails_at_the_third(profile):
    lab = Lab(profile)
    g = lab.group(k=5000)
    assert lab.read("g", KMEM) == 4096
    lab.limit("g", 8192)
    assert lab.read("g", KMEM) == 8192
    stack = [lab.order(g, 0) for _ in range(3)]
    assert stack[2] is None
    for page in stack[:2]:
        lab.pages.free(page)
    assert (k(g), g.memory.usage // PAGE, lab.stocked_pages) == ((0, 8192, 1), 31, 31)
