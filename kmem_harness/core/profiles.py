"""The kernels this package can be: each profile is data plus two small strategies.

Knows releases; knows no memcg. A difference between releases belongs here, never in a
comparison of profile names elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

from kmem_harness.core.activation import Activation, AlwaysAccounts, OptIn
from kmem_harness.core.charging import Charging, PageCounterCharging, ResCounterCharging
from kmem_harness.core.gfp import Gfp, Situation
from kmem_harness.core.limit_text import PAGE, IntegerSyntax, LimitSyntax
from kmem_harness.core.releases import check_profile_name

__all__ = ["KernelProfile", "profile_named"]


class KernelProfile(NamedTuple):
    """One release's behaviour (K108-K110).

    :param unlimited: what a counter without a limit holds (K2).
    :param charges: what kinds of kernel memory are charged, for people (K86-K88).
    :param stack_nbytes: the kernel stack of one task.
    :param name_max: the longest directory name; kernfs has no limit below that of a path.
    :param ignores_empty_writes: a write of 0 bytes succeeds and does nothing.
    :param links_to_root: a child of a non-hierarchical parent still counts in the root.
    :param force_empty_checks: force_empty needs an empty memcg (K84); later it only reclaims.
    :param offlines_later: rmdir leaves taking the memcg offline to a worker.
    :param reparents_objects: rmdir hands slab objects to the parent; pages keep a zombie (K110).
    :param moves_user_pages: rmdir and force_empty hand user pages to the parent (K78, K84).
    :param pages_one_by_one: a stack is charged page by page, not as one block (K110).
    :param slabinfo_needs_accounting: reading slabinfo of an idle memcg is EIO, not empty.
    :param memsw_files_without_swap: memsw files exist, and answer EOPNOTSUPP, when swap
        accounting is off; later they are absent.
    :param hierarchy_shares_settings: swappiness and oom_control cannot differ in a hierarchy.
    :param oom_control_counts_kills: oom_control has a line for the kills so far.
    """

    name: str
    title: str
    unlimited: int
    limit_text: LimitSyntax
    integer_text: IntegerSyntax
    charging: Charging
    activation: Activation
    charges: str
    stack_nbytes: int
    name_max: int
    ignores_empty_writes: bool
    links_to_root: bool
    force_empty_checks: bool
    offlines_later: bool
    reparents_objects: bool
    moves_user_pages: bool
    pages_one_by_one: bool
    slabinfo_needs_accounting: bool
    memsw_files_without_swap: bool
    hierarchy_shares_settings: bool
    oom_control_counts_kills: bool
    absent_files: frozenset[str]


_S63 = (1 << 63) - 1
_PRESSURE, _SANE = "memory.pressure_level", "cgroup.sane_behavior"
_GATE = Situation.INTERRUPT | Situation.NO_MM | Situation.KERNEL_THREAD


def _limit_text(unlimited: int, *, saturates: bool = False) -> LimitSyntax:
    return LimitSyntax(
        max_nbytes=62,
        suffixes="kmg",
        unlimited=unlimited,
        rounds_up=True,
        saturates=saturates,
        loose_minus=True,
    )


class _V4Charging(ResCounterCharging):
    kmem_first = False
    memsw_first = False
    retries = 5
    forced_counts = True
    uncharge_refills = False
    nofail_accounts = False
    unaccounted = _GATE | Situation.OOM_VICTIM
    oom_needs = Gfp.WAIT
    oom_kills = True
    bypass_forces_kmem = True


class _MergedCharging(_V4Charging):
    kmem_first = True
    unaccounted = _GATE | Situation.FATAL_SIGNAL | Situation.OOM_VICTIM
    oom_needs = Gfp.FS
    bypass_forces_kmem = False


class _LaterCharging(_MergedCharging):
    oom_kills = False


class _Charging510(PageCounterCharging):
    kmem_first = False
    memsw_first = True
    retries = 16
    forced_counts = False
    uncharge_refills = True
    nofail_accounts = True
    unaccounted = _GATE


_V4 = KernelProfile(
    name="v4",
    title="v4 posting (2012)",
    unlimited=_S63,
    limit_text=_limit_text(_S63),
    integer_text=IntegerSyntax(max_nbytes=63, strict=False),
    charging=_V4Charging(),
    activation=OptIn(leftover_is_busy=True),
    charges="task stacks",
    stack_nbytes=2 * PAGE,
    name_max=255,
    ignores_empty_writes=False,
    links_to_root=False,
    force_empty_checks=True,
    offlines_later=False,
    reparents_objects=False,
    moves_user_pages=True,
    pages_one_by_one=False,
    slabinfo_needs_accounting=True,
    memsw_files_without_swap=True,
    hierarchy_shares_settings=True,
    oom_control_counts_kills=False,
    absent_files=frozenset({_PRESSURE, _SANE, "memory.kmem.slabinfo"}),
)
_3_8 = _V4._replace(
    name="3.8",
    title="3.8 to 3.11",
    charging=_MergedCharging(),
    activation=OptIn(leftover_is_busy=False),
    charges="task stacks (slab pages too in the kernel; not priced here)",
    absent_files=frozenset({_PRESSURE, _SANE}),
)
_3_12 = _3_8._replace(
    name="3.12",
    title="3.12, 3.13",
    unlimited=(1 << 64) - 1,
    limit_text=_limit_text((1 << 64) - 1, saturates=True),
    charging=_LaterCharging(),
    absent_files=frozenset(),
)
_PAGES_63 = _S63 // PAGE * PAGE
_5_10 = KernelProfile(
    name="5.10",
    title="5.10",
    unlimited=_PAGES_63,
    limit_text=LimitSyntax(
        max_nbytes=PAGE,
        suffixes="kmgtpe",
        unlimited=_PAGES_63,
        rounds_up=False,
        saturates=True,
        loose_minus=False,
    ),
    integer_text=IntegerSyntax(max_nbytes=PAGE, strict=True),
    charging=_Charging510(),
    activation=AlwaysAccounts(),
    charges="task stacks, slab objects, page tables",
    stack_nbytes=4 * PAGE,
    name_max=4095,
    ignores_empty_writes=True,
    links_to_root=True,
    force_empty_checks=False,
    offlines_later=True,
    reparents_objects=True,
    moves_user_pages=False,
    pages_one_by_one=True,
    slabinfo_needs_accounting=False,
    memsw_files_without_swap=False,
    hierarchy_shares_settings=False,
    oom_control_counts_kills=True,
    absent_files=frozenset(),
)

_PROFILES = {profile.name: profile for profile in (_V4, _3_8, _3_12, _5_10)}


def profile_named(name: str) -> KernelProfile:
    """Find a profile.

    Raises: ConfigurationError for a name that is not in PROFILE_NAMES.
    """
    return _PROFILES[check_profile_name(name)]
