"""The resource counter."""

from __future__ import annotations

import errno

import pytest

from kmem_harness.core.counter import ResourceCounter
from tests.core.bench import fails

CEILING = 1 << 63


def chain(*limits):
    """Build counters from the top down and return them from the bottom up."""
    counters = []
    for limit in limits:
        counter = ResourceCounter(CEILING, counters[-1] if counters else None)
        if limit is not None:
            counter.limit = limit
        counters.append(counter)
    return counters[::-1]


def test_counter_when_new_then_is_empty_and_unlimited():
    """K1."""
    (counter,) = chain(None)
    assert (counter.usage, counter.max_usage, counter.failcnt) == (0, 0, 0)
    assert counter.unlimited
    assert counter.soft_limit == CEILING


def test_try_charge_when_landing_on_the_limit_then_is_allowed():
    """K3."""
    (counter,) = chain(100)
    assert counter.try_charge(100) is None
    refusal = counter.try_charge(1)
    assert refusal is not None
    assert (refusal.counter, refusal.shortfall_bytes) == (counter, 1)


def test_try_charge_when_an_ancestor_refuses_then_only_peaks_below_remain():
    """K4, K5: the refusing counter is named and alone counts the failure."""
    low, middle, top = chain(1000, 50, None)
    assert low.try_charge(40) is None
    refusal = low.try_charge(20)
    assert refusal is not None
    assert refusal.counter is middle
    assert (low.usage, middle.usage, top.usage) == (40, 40, 40)
    assert (low.max_usage, middle.max_usage) == (60, 40)
    assert (low.failcnt, middle.failcnt, top.failcnt) == (0, 1, 0)


def test_zero_limit_when_charged_then_admits_only_nothing():
    """K6."""
    (counter,) = chain(0)
    assert counter.try_charge(0) is None
    assert counter.try_charge(1) is not None


def test_forced_charge_when_over_several_limits_then_each_counts_and_the_lowest_is_named():
    """K7."""
    low, middle, top = chain(100, 30, 20)
    refusal = low.charge(50)
    assert refusal is not None
    assert refusal.counter is low
    assert [c.usage for c in (low, middle, top)] == [50, 50, 50]
    assert [c.failcnt for c in (low, middle, top)] == [1, 1, 0]


def test_uncharge_when_a_level_holds_less_then_clamps_there_alone():
    """K8, K9: what is left is told of the counter it was called on."""
    low, top = chain(None, None)
    top.charge(100)
    low.usage = 30
    assert low.uncharge(50) == 0
    assert (low.usage, top.usage) == (0, 50)


def test_uncharge_until_when_given_a_top_then_stops_below_it():
    """K10."""
    low, middle, top = chain(None, None, None)
    low.charge(10)
    low.uncharge_until(top, 4)
    assert (low.usage, middle.usage, top.usage) == (6, 6, 10)
    low.uncharge_until(None, 6)
    assert (low.usage, middle.usage, top.usage) == (0, 0, 4)


def test_set_limit_when_below_usage_then_is_busy_and_equal_is_fine():
    """K11: neither parents nor children are asked."""
    low, top = chain(50, None)
    low.charge(10)
    with fails(errno.EBUSY):
        low.set_limit(9)
    assert low.unlimited
    low.set_limit(10)
    top.set_limit(10)
    low.set_limit(1000)
    assert (low.limit, top.limit) == (1000, 10)


def test_resets_when_used_then_touch_one_counter():
    """K12."""
    low, top = chain(50, 30)
    low.charge(40)
    low.uncharge(30)
    low.reset_max_usage()
    low.reset_failcnt()
    assert (low.max_usage, low.failcnt) == (10, 0)
    assert (top.max_usage, top.failcnt) == (40, 0)
    top.failcnt = 3
    low.reset_failcnt()
    assert top.failcnt == 3


@pytest.mark.parametrize(("usage", "margin"), [(0, 100), (60, 40), (100, 0), (130, 0)])
def test_margin_when_over_the_limit_then_is_nothing(usage, margin):
    """K13."""
    (counter,) = chain(100)
    counter.charge(usage)
    counter.soft_limit = 50
    assert counter.margin == margin
    assert counter.soft_excess == max(0, usage - 50)
