"""The short ways to charge: they charge what the whole way would, or change nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmem_harness.core.profiles import profile_named
from kmem_harness.core.releases import PROFILE_NAMES
from kmem_harness.core.tree import MemcgTree

SIZES = st.integers(0, 40)


def figures(memcg):
    return [(one.usage, one.max_usage, one.failcnt) for one in memcg.chain]


def grown(kernel, limits, charged):
    """Give a memcg three levels down, under limits, in a tree that was charged here and there."""
    tree = MemcgTree(profile_named(kernel), stock=False, use_hierarchy=True)
    levels = [tree.make(path) for path in ("/a", "/a/b", "/a/b/c")]
    for level in levels:
        level.activate()
    for level, nbytes in zip(levels, charged, strict=True):
        level.charge(nbytes)
        level.uncharge(nbytes // 2)  # some of it was a peak
    for level, (kmem, memory) in zip(levels, limits, strict=True):
        level.kmem.limit, level.memory.limit = kmem, memory
    return levels[-1]


@pytest.mark.parametrize("kernel", PROFILE_NAMES)
@pytest.mark.parametrize("way", ["charge_with_room", "charge_without_peak"])
@settings(max_examples=40, deadline=None)
@given(
    limits=st.tuples(*[st.tuples(SIZES, SIZES)] * 3),
    charged=st.tuples(SIZES, SIZES, SIZES),
    nbytes=SIZES,
    room=SIZES,
)
def test_short_way_when_taken_then_is_the_whole_way_and_else_changes_nothing(
    kernel, way, limits, charged, nbytes, room
):
    memcg, twin = grown(kernel, limits, charged), grown(kernel, limits, charged)
    before = figures(memcg)
    fits = all(one.usage + nbytes + room <= one.limit for one in memcg.chain)
    peaks = any(one.usage + nbytes > one.max_usage for one in memcg.chain)
    taken = getattr(memcg, way)(nbytes, room)
    assert taken == (fits and not (peaks and way == "charge_without_peak"))
    if taken:
        assert twin.try_charge(nbytes) is None
        before = figures(twin)
    assert figures(memcg) == before


@pytest.mark.parametrize("name", PROFILE_NAMES)
def test_profile_when_named_then_has_that_name(name):
    assert profile_named(name).name == name
