from __future__ import annotations

import pytest

from kmem_harness.limits.search import Search


def play(search: Search, smallest: int) -> list[int]:
    """Search with what passes from *smallest* on; give the values tried."""
    tried = []
    while search.value is not None:
        left = search.steps_left
        tried.append(search.value)
        search.learn(passed=search.value >= smallest)
        assert search.steps_left < left
    return tried


@pytest.mark.parametrize("low_second", [False, True])
@pytest.mark.parametrize("smallest", [1, 4096, 8192, 40960, 65536, 65537])
def test_search_when_played_then_it_finds_the_smallest_that_passes(smallest, low_second):
    search = Search(4096, 65536, 4096, low_second=low_second)
    tried = play(search, smallest)
    assert tried[0] == 65536
    assert len(tried) == len(set(tried))
    assert search.hopeless == (smallest > 65536)
    assert search.low_passes == (smallest <= 4096)
    if not search.hopeless:
        assert search.smallest == max(4096, -(-smallest // 4096) * 4096)
    if low_second and smallest <= 65536:
        assert tried[1] == 4096


def test_search_when_the_ends_are_no_multiple_apart_then_the_highest_is_one_of_the_values():
    search = Search(10, 25, 10)
    assert play(search, 21) == [25, 10, 20]
    assert (search.smallest, search.largest_failed) == (25, 20)
