"""The control files and the rules behind them, per profile."""

from __future__ import annotations

import errno

import pytest

from kmem_harness.core.errors import AccountingError
from kmem_harness.core.files import modes
from kmem_harness.core.gfp import GFP_KERNEL, Gfp, Situation
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.releases import PROFILE_NAMES
from kmem_harness.core.tree import MemcgTree
from tests.core.bench import KMEM, PAGE, USER, Lab, fails, k, r

OLD = ("v4", "3.8", "3.12")
each_profile = pytest.mark.parametrize("profile", PROFILE_NAMES)
each_old = pytest.mark.parametrize("profile", OLD)


@each_old
def test_write_when_refused_then_names_rule_file_and_value(profile):
    """K16: a failed write changes nothing."""
    lab = Lab(profile)
    lab.group(k="1M")
    with pytest.raises(OSError, match=r"K19.*memory\.kmem\.limit_in_bytes.*'-7'"):
        lab.limit("g", "-7")
    assert lab.read("g") == 1 << 20


@each_old
def test_limit_write_when_several_checks_fail_then_the_length_comes_first(profile):
    """K17: too long, then root, then syntax."""
    lab = Lab(profile)
    with fails(errno.E2BIG):
        lab.limit("/", "x" * 63)
    with fails(errno.EINVAL):
        lab.limit("/", "x" * 62)


@each_profile
@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("\t8192\v", 8192),
        ("8192\x00junk", 8192),
        ("0X2000", 8192),
        ("020000", 8192),
        (" k", 0),
        (" ", 0),
        ("\n", 0),
    ],
)
def test_limit_text_when_odd_then_is_read_as_the_kernel_does(profile, text, limit):
    """K18, K20, K22."""
    lab = Lab(profile)
    lab.group(k="1M")
    lab.limit("g", text)
    assert lab.read("g") == limit


@pytest.mark.parametrize("text", ["-", "-0", "-2", "-1k", "--1", "- 1", "-٣"])
@each_profile
def test_limit_text_when_negative_then_only_minus_one_will_do(profile, text):
    """K19."""
    lab = Lab(profile)
    lab.group(k="1M")
    with fails(errno.EINVAL):
        lab.limit("g", text)


def test_limit_text_when_minus_01_then_5_10_refuses():
    """K19, K110."""
    lab = Lab("5.10")
    lab.group()
    with fails(errno.EINVAL):
        lab.limit("g", "-01")


@each_profile
@pytest.mark.parametrize("text", ["1kb", "1kk", "1 k", "1.5M", "1e3", "08", "0x", "0xg", "+1"])
def test_limit_text_when_malformed_then_is_invalid_everywhere(profile, text):
    """K20, K21."""
    lab = Lab(profile)
    lab.group()
    with fails(errno.EINVAL):
        lab.limit("g", text)


@pytest.mark.parametrize("suffix", "tTpPeE")
def test_large_suffix_when_written_then_only_5_10_takes_it(suffix):
    """K21."""
    for profile in OLD:
        lab = Lab(profile)
        lab.group()
        with fails(errno.EINVAL):
            lab.limit("g", f"1{suffix}")
    lab = Lab("5.10")
    lab.group(k=f"1{suffix}")
    assert lab.read("g") == 1 << {"t": 40, "p": 50, "e": 60}[suffix.lower()]


@pytest.mark.parametrize(
    ("profile", "limit"), [("v4", 8192), ("3.8", 8192), ("3.12", 8192), ("5.10", 4096)]
)
def test_limit_when_between_pages_then_rounds_as_the_profile_says(profile, limit):
    """K23."""
    lab = Lab(profile)
    lab.group(k=5000)
    assert lab.read("g") == limit


@pytest.mark.parametrize(
    ("profile", "limit"),
    [("v4", 0), ("3.8", 0), ("3.12", (1 << 64) - 1), ("5.10", 9223372036854771712)],
)
def test_limit_when_past_the_top_then_wraps_or_saturates(profile, limit):
    """K24."""
    lab = Lab(profile)
    lab.group(k=18446744073709551615)
    assert lab.read("g") == limit


@each_profile
def test_read_when_any_figure_then_is_decimal_with_one_newline(profile):
    """K2, K25."""
    lab = Lab(profile)
    lab.group(k="1M")
    assert lab.tree.read("g", KMEM) == "1048576\n"
    lab.limit("g", "-1")
    assert lab.tree.read("g", KMEM) == f"{lab.profile.unlimited}\n"


@each_profile
@pytest.mark.parametrize("text", ["x", "-1", "7" * 200])
def test_trigger_file_when_written_then_content_is_ignored(profile, text):
    """K26."""
    lab = Lab(profile)
    g = lab.group(k=0)
    g.try_charge(PAGE)
    assert g.kmem.failcnt == 1
    lab.write("g", "memory.kmem.failcnt", text)
    assert g.kmem.failcnt == 0


@each_old
def test_integer_file_when_malformed_then_older_kernels_trim_but_need_a_byte(profile):
    """K27."""
    lab = Lab(profile)
    lab.group()
    for text in ("", "1k", "x", "-1", "+1"):
        with fails(errno.EINVAL):
            lab.write("g", "memory.use_hierarchy", text)
    with fails(errno.E2BIG):
        lab.write("g", "memory.use_hierarchy", " " * 64)
    lab.write("g", "memory.use_hierarchy", " 0x1 ")
    assert lab.read("g", "memory.use_hierarchy") == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 1", errno.EINVAL),
        ("1 ", errno.EINVAL),
        ("1\n\n", errno.EINVAL),
        ("x", errno.EINVAL),
        ("-1", errno.EINVAL),
        ("18446744073709551616", errno.ERANGE),
    ],
)
def test_integer_file_when_malformed_in_5_10_then_kstrtoull_refuses(text, number):
    """K27."""
    lab = Lab("5.10")
    lab.group()
    with fails(number):
        lab.write("g", "memory.use_hierarchy", text)
    for good in ("+1", "0x1\n", "01"):
        lab.write("g", "memory.use_hierarchy", good)
    assert lab.read("g", "memory.use_hierarchy") == 1


@each_profile
def test_file_when_it_lacks_a_handler_then_is_invalid(profile):
    """K28: modes follow from handlers, and a privileged write reaches the kernel."""
    lab = Lab(profile)
    g = lab.group()
    mode = modes(g)
    assert mode["memory.kmem.limit_in_bytes"] == 0o644
    assert mode["memory.kmem.usage_in_bytes"] == 0o444
    assert mode["memory.force_empty"] == 0o200
    with fails(errno.EINVAL):
        lab.write("g", "memory.kmem.usage_in_bytes", "0")
    with fails(errno.EINVAL):
        lab.tree.read("g", "memory.force_empty")


def test_empty_write_when_in_5_10_then_does_nothing_at_all():
    lab = Lab("5.10")
    lab.group(k="1M")
    lab.limit("g", "")
    lab.write("g", "memory.kmem.usage_in_bytes", "")
    assert lab.read("g") == 1 << 20


def test_long_write_when_in_5_10_then_a_page_is_the_most():
    lab = Lab("5.10")
    lab.group(k=("8192" + " " * 4092))
    assert lab.read("g") == 8192
    for file in (KMEM, "memory.kmem.failcnt"):
        with fails(errno.E2BIG):
            lab.write("g", file, " " * 4097)


@each_profile
def test_accounts_when_every_byte_of_kmem_is_memory_too(profile):
    """K30: kmem is a subset of memory."""
    lab = Lab(profile, stock=False)
    g = lab.group(k="1M")
    g.try_charge(3 * PAGE)
    assert g.kmem.usage == g.memory.usage == 3 * PAGE
    g.try_charge_user(PAGE)
    assert (g.kmem.usage, g.memory.usage) == (3 * PAGE, 4 * PAGE)


@each_profile
def test_request_when_not_flagged_then_is_not_considered(profile):
    """K31, K37."""
    lab = Lab(profile)
    g = lab.group(k=0)
    page = lab.fork(g, Gfp.WAIT | Gfp.FS)
    assert page is not None
    assert page.memcg is None
    assert k(g) == (0, 0, 0)


@each_profile
def test_root_when_charged_then_is_never_accounted(profile):
    """K34, K66, K103."""
    lab = Lab(profile)
    assert lab.fork(lab.tree.root)
    assert lab.read("/", "memory.kmem.usage_in_bytes") == 0


@each_old
def test_hierarchical_root_when_children_charge_then_accumulates(profile):
    """K72, K103."""
    lab = Lab(profile, use_hierarchy=True)
    g = lab.group(k="1M")
    lab.fork(g)
    assert lab.read("/", "memory.kmem.usage_in_bytes") == 8192


def test_non_hierarchical_child_when_charged_then_only_5_10_counts_it_in_the_root():
    """K75, K110."""
    for profile in PROFILE_NAMES:
        lab = Lab(profile)
        g = lab.group(k="1M")
        lab.fork(g)
        root_usage = lab.read("/", "memory.kmem.usage_in_bytes")
        assert root_usage == (8192 if profile == "5.10" else 0)


@each_old
def test_task_when_it_forks_then_the_group_of_the_leader_pays(profile):
    """K33, K89: a thread elsewhere charges its leader's group."""
    lab = Lab(profile)
    a, b = lab.group("a", k="1M"), lab.group("b", k="1M")
    lab.tree.tasks.add(10, a)
    lab.tree.tasks.add_thread(10, 11)
    lab.write("b", "tasks", "11")
    assert lab.tree.read("b", "cgroup.procs") == "10\n"
    lab.fork(lab.tree.tasks.processes[10].memcg)
    assert (a.kmem.usage, b.kmem.usage) == (8192, 0)


@pytest.mark.parametrize(
    ("profile", "kmem_asked_first"),
    [("v4", False), ("3.8", True), ("3.12", True), ("5.10", False)],
)
def test_order_when_both_are_full_then_the_first_asked_counts_the_failure(
    profile, kmem_asked_first
):
    """K38-K41, K98, K110: nothing is reclaimed for kmem, and nothing stays charged."""
    lab = Lab(profile, stock=False)
    g = lab.group(k=0, u=0)
    lab.tree.reclaimer = lambda *_, **__: 0
    assert lab.order(g, 0, GFP_KERNEL | Gfp.NORETRY) is None
    assert bool(g.kmem.failcnt) is kmem_asked_first
    assert bool(g.memory.failcnt) is not kmem_asked_first
    assert (g.kmem.usage, g.memory.usage) == (0, 0)


@pytest.mark.parametrize(
    ("profile", "failures"), [("v4", 7), ("3.8", 7), ("3.12", 7), ("5.10", 19)]
)
def test_retries_when_nothing_helps_then_as_many_as_the_kernel_makes(profile, failures):
    """K42, K48: a batch, then the exact size until the credits are gone."""
    lab = Lab(profile)
    g = lab.group(k="1M", u=0)
    assert lab.fork(g) is None
    assert g.memory.failcnt == failures


def test_dying_task_when_charged_in_v4_then_even_kmem_is_forced():
    """K47."""
    lab = Lab("v4")
    g = lab.group(k=0, u=0)
    assert lab.fork(g, situation=Situation.FATAL_SIGNAL)
    assert k(g)[0] == r(g)[0] == 8192


def test_nofail_when_over_the_limits_in_5_10_then_is_charged_by_force():
    """K32, K110: page counters count no failure when forced."""
    lab = Lab("5.10", stock=False)
    g = lab.group(k=0)
    assert lab.fork(g, GFP_KERNEL | Gfp.NOFAIL)
    assert (g.kmem.usage, g.memory.usage, g.kmem.failcnt) == (8192, 8192, 1)


def test_memsw_when_full_then_memory_is_rolled_back():
    """K49."""
    lab = Lab("3.8", stock=False, swap_accounting=True)
    g = lab.group(k="1M", u=8192)
    lab.write("g", "memory.memsw.limit_in_bytes", 8192)
    g.memsw.charge(4096)
    assert lab.fork(g, GFP_KERNEL | Gfp.NORETRY) is None
    assert (g.memory.usage, g.memory.failcnt, g.memsw.failcnt) == (0, 0, 1)


def test_stock_when_off_then_memory_is_exact():
    """K56: no batch, so no batch's failure either."""
    for profile in PROFILE_NAMES:
        lab = Lab(profile, stock=False)
        g = lab.group(k="1M")
        lab.fork(g)
        assert g.memory.usage == 8192


def test_uncharge_when_in_5_10_then_refills_the_stock():
    """K54, K110."""
    lab = Lab("5.10")
    g = lab.group(k="1M")
    page = lab.fork(g)
    lab.pages.free(page)
    assert (g.kmem.usage, g.memory.usage, lab.stocked_pages) == (0, 131072, 32)


@each_old
def test_other_cpus_stock_when_drained_then_later(profile):
    """K55, K114: remote drains are steps of their own."""
    lab = Lab(profile, nr_cpus=2)
    g = lab.group(k="1M")
    lab.fork(g)
    lab.tree.cpu = 1
    lab.tree.deferred.immediate = False
    lab.write("g", "memory.force_empty", "0")
    assert g.memory.usage == 131072
    assert lab.tree.deferred.pending == ("remote-drain",) * 2
    lab.tree.deferred.settle()
    assert g.memory.usage == 8192


@each_old
def test_track_only_when_kmem_exceeds_memory_then_memory_stops_it(profile):
    """K59-K61: K under U is a cap of its own, over U it only tracks, unset it is ignored."""
    lab = Lab(profile, stock=False)
    cap = lab.group("cap", k=8192, u="1M")
    track = lab.group("track", k="1M", u=8192)
    unset = lab.group("unset", u=8192)
    for memcg in (cap, track, unset):
        lab.forks(memcg, 2, GFP_KERNEL | Gfp.NORETRY)
    assert (cap.kmem.failcnt, track.kmem.failcnt) == (1, 0)
    assert track.memory.failcnt == 1
    assert (unset.kmem.usage, unset.memory.failcnt) == (0, 0)


@each_old
def test_activation_when_it_happens_then_counts_once_on_the_switch(profile):
    """K62-K64, K67, K77."""
    lab = Lab(profile)
    g = lab.group()
    lab.limit("g", "-1")
    assert (g.accounts, g.refs, lab.tree.switch_count) == (False, 1, 0)
    for text in ("1M", "2M", "-1"):
        lab.limit("g", text)
    assert (g.accounts, g.refs, lab.tree.switch_count) == (True, 2, 1)
    lab.tree.remove("g")
    assert (g.freed, lab.tree.switch_count) == (True, 0)


@each_profile
def test_kmem_limit_when_lowered_below_usage_then_is_busy_at_once(profile):
    """K65, K68: tasks and children do not matter any more, and nothing is reclaimed."""
    lab = Lab(profile)
    g = lab.group(k="1M")
    lab.tree.tasks.add(9, g)
    lab.fork(g)
    lab.tree.reclaimer = lambda *_, **__: pytest.fail("reclaimed for kmem")
    with fails(errno.EBUSY):
        lab.limit("g", 4096)
    lab.limit("g", 8192)


@each_profile
def test_memory_limit_when_kernel_memory_is_above_it_then_is_busy(profile):
    """K69: kernel pages cannot be reclaimed; user pages can."""
    lab = Lab(profile, stock=False)
    g = lab.group(k="1M")
    g.try_charge(8192)
    g.try_charge_user(8192)

    def reclaim(culprit, _request, *, swap):
        freed = min(4096, culprit.lru_nbytes)
        culprit.uncharge_user(freed)
        return freed

    lab.tree.reclaimer = reclaim
    with fails(errno.EBUSY):
        lab.write("g", USER, 4096)
    lab.write("g", USER, 8192)
    assert (g.lru_nbytes, g.memory.usage) == (0, 8192)


@each_profile
def test_memory_and_memsw_when_crossed_then_are_invalid(profile):
    """K69."""
    lab = Lab(profile, swap_accounting=True)
    lab.group(u=16384)
    with fails(errno.EINVAL):
        lab.write("g", "memory.memsw.limit_in_bytes", 8192)
    lab.write("g", "memory.memsw.limit_in_bytes", 16384)
    with fails(errno.EINVAL):
        lab.write("g", USER, 20480)


@each_old
def test_child_when_born_under_an_active_hierarchy_then_is_active(profile):
    """K70, K71: from above nobody else is ever activated."""
    lab = Lab(profile)
    lab.group("a", hierarchy=True, k="1M")
    b = lab.group("a/b")
    assert (b.accounts, b.kmem.unlimited) == (True, True)
    lab.tree.tasks.add(5, b)
    lab.limit("a/b", "1M")


@each_profile
def test_use_hierarchy_when_changed_then_needs_a_flat_parent_and_no_children(profile):
    """K75, K76."""
    lab = Lab(profile)
    lab.group("a", hierarchy=True)
    lab.group("a/b")
    assert lab.read("a/b", "memory.use_hierarchy") == 1
    lab.write("a/b", "memory.use_hierarchy", "1")
    with fails(errno.EINVAL):
        lab.write("a/b", "memory.use_hierarchy", "0")
    with fails(errno.EBUSY):
        lab.write("a", "memory.use_hierarchy", "0")
    with fails(errno.EINVAL):
        lab.write("/", "memory.use_hierarchy", "2")


@each_old
def test_rmdir_when_user_pages_remain_then_they_move_up(profile):
    """K78: ancestors keep what they had."""
    lab = Lab(profile, stock=False)
    a = lab.group("a", hierarchy=True)
    b = lab.group("a/b")
    b.try_charge_user(8192)
    lab.tree.remove("a/b")
    assert (a.lru_nbytes, a.memory.usage, b.memory.usage) == (8192, 8192, 0)
    lab.tree.remove("a")
    assert a.memory.usage == 0


@each_profile
def test_rmdir_when_busy_then_is_refused(profile):
    """K78."""
    lab = Lab(profile)
    lab.group("a")
    b = lab.group("a/b")
    lab.tree.tasks.add(7, b)
    for path in ("a", "a/b"):
        with fails(errno.EBUSY):
            lab.tree.remove(path)


@each_profile
def test_zombie_when_its_last_byte_goes_then_is_freed_once(profile):
    """K79-K82: visible above until then."""
    lab = Lab(profile)
    a = lab.group("a", hierarchy=True, k="1M")
    b = lab.group("a/b")
    page = lab.fork(b)
    lab.tree.remove("a/b")
    assert (a.kmem.usage, b.freed) == (8192, False)
    lab.pages.free(page)
    assert (a.kmem.usage, b.freed, b.dead, b.refs) == (0, True, False, 0)


@each_old
def test_force_empty_when_busy_or_root_then_is_refused(profile):
    """K84."""
    lab = Lab(profile)
    g = lab.group()
    with fails(errno.EINVAL):
        lab.write("/", "memory.force_empty", "0")
    lab.tree.tasks.add(7, g)
    with fails(errno.EBUSY):
        lab.write("g", "memory.force_empty", "0")


@each_profile
def test_migration_when_done_then_moves_no_charge_whatever_is_asked(profile):
    """K83, K115: the page's record says whom to give it back to."""
    lab = Lab(profile)
    a, b = lab.group("a", k="1M"), lab.group("b", k="1M")
    lab.write("b", "memory.move_charge_at_immigrate", "3")
    with fails(errno.EINVAL):
        lab.write("b", "memory.move_charge_at_immigrate", "4")
    lab.tree.tasks.add(3, a)
    page = lab.fork(a)
    lab.write("b", "cgroup.procs", "3\n")
    assert (a.kmem.usage, b.kmem.usage) == (8192, 0)
    lab.pages.free(page)
    assert a.kmem.usage == 0


@pytest.mark.parametrize(("profile", "fit"), [("v4", 4), ("3.8", 4), ("3.12", 4), ("5.10", 2)])
def test_capacity_when_only_stacks_count_then_is_the_limit_over_the_stack(profile, fit):
    """K86, K94."""
    lab = Lab(profile)
    g = lab.group(k=32768)
    order = {8192: 1, 16384: 2}[lab.profile.stack_nbytes]
    assert sum(lab.order(g, order) is not None for _ in range(10)) == fit


@each_profile
def test_tcp_when_limited_then_is_a_counter_of_its_own(profile):
    """K100: no precondition, and not one-way."""
    lab = Lab(profile)
    g = lab.group()
    lab.tree.tasks.add(4, g)
    lab.write("g", "memory.kmem.tcp.limit_in_bytes", "8192")
    assert (g.tcp_accounts, g.accounts) == (True, profile == "5.10")
    g.tcp.charge(16384)
    assert (g.tcp.usage, g.kmem.usage) == (16384, 0)
    g.tcp.uncharge(16384)
    lab.write("g", "memory.kmem.tcp.limit_in_bytes", "-1")
    assert not g.tcp_accounts
    with fails(errno.EINVAL):
        lab.write("/", "memory.kmem.tcp.limit_in_bytes", "1M")


@each_profile
def test_event_control_when_a_kmem_file_is_registered_then_is_refused(profile):
    """K101."""
    lab = Lab(profile)
    lab.group()
    with fails(errno.EINVAL):
        lab.write("g", "cgroup.event_control", "junk")
    with fails(errno.EBADF):
        lab.write("g", "cgroup.event_control", "3 4")


@each_profile
def test_procs_when_junk_is_written_then_is_invalid_and_strangers_are_unknown(profile):
    """K101."""
    lab = Lab(profile)
    lab.group()
    for text in ("abc", "-1", "1x", "08"):
        with fails(errno.EINVAL):
            lab.write("g", "cgroup.procs", text)
    with fails(errno.ESRCH):
        lab.write("g", "tasks", "4242")


def test_slabinfo_when_idle_then_only_merged_kernels_answer_an_error():
    lab = Lab("3.8")
    lab.group()
    with fails(errno.EIO):
        lab.tree.read("g", "memory.kmem.slabinfo")
    lab.limit("g", "1M")
    assert lab.tree.read("g", "memory.kmem.slabinfo").startswith("slabinfo")
    new = Lab("5.10")
    new.group()
    assert new.tree.read("g", "memory.kmem.slabinfo") == ""
    assert "memory.kmem.slabinfo" not in MemcgTree(profile_named("v4")).ls("/")


def test_memsw_when_swap_accounting_is_off_then_old_files_say_so_and_new_ones_are_absent():
    file = "memory.memsw.limit_in_bytes"
    for profile in OLD:
        lab = Lab(profile)
        lab.group()
        with fails(errno.EOPNOTSUPP):
            lab.tree.read("g", file)
    lab = Lab("5.10")
    lab.group()
    with fails(errno.ENOENT):
        lab.tree.read("g", file)
    assert file in MemcgTree(profile_named("5.10"), swap_accounting=True).ls("/")


@each_old
def test_settings_when_in_a_hierarchy_then_older_kernels_refuse_them(profile):
    lab = Lab(profile)
    lab.group("a", hierarchy=True)
    lab.group("a/b")
    for path in ("a", "a/b", "/"):
        for file in ("memory.swappiness", "memory.oom_control"):
            with fails(errno.EINVAL):
                lab.write(path, file, "1")
    lab.group("c")
    lab.write("c", "memory.swappiness", "7")
    assert lab.read("c", "memory.swappiness") == 7
    with fails(errno.EINVAL):
        lab.write("c", "memory.swappiness", "101")


@each_profile
def test_stat_when_read_then_has_no_line_for_kernel_memory(profile):
    lab = Lab(profile)
    lab.group("a", hierarchy=True, u="2M")
    lab.group("a/b", u="4M")
    text = lab.tree.read("a/b", "memory.stat")
    assert "hierarchical_memory_limit 2097152\n" in text
    assert "kmem" not in text


@each_profile
def test_uncharge_when_more_than_charged_then_the_books_are_wrong(profile):
    """A second free is our bug, and no counter is clamped in silence."""
    lab = Lab(profile)
    g = lab.group(k="1M")
    g.try_charge(4096)
    with pytest.raises(AccountingError, match="8192 bytes uncharged"):
        g.uncharge(8192)
    g.uncharge(4096)


@each_profile
def test_forced_charge_when_observing_then_passes_every_limit(profile):
    lab = Lab(profile, stock=False, use_hierarchy=True)
    a = lab.group("a", k=0)
    b = lab.group("a/b")
    b.charge(8192)
    assert a.kmem.usage == b.kmem.usage == a.memory.usage == 8192


def test_deferred_work_when_stepped_then_runs_in_order():
    """K80, K114: what a test may look at between steps."""
    lab = Lab("3.8")
    g = lab.group(k="1M")
    lab.tree.deferred.immediate = False
    lab.tree.remove("g")
    steps = []
    while (step := lab.tree.deferred.step()) is not None:
        steps.append((step, g.freed))
    assert steps == [("rcu", False), ("free-worker", True)]
