"""Rows and rates from one look to the next."""

from __future__ import annotations

from kmem_harness.top.rates import SORTS, Watch, ordered


def memcg(path, usage=0, limit=-1, boxes=()):
    counter = {"limit": limit, "usage": usage, "max_usage": usage, "failcnt": 0}
    return {"path": path, "kmem": counter, "memory": dict(counter), "boxes": list(boxes)}


def box(name, calls, refused, **live):
    kinds = {kind: {"live": n, "nbytes": 10 * n, "refused": refused} for kind, n in live.items()}
    return {"box": name, "calls": calls, "refused": refused, "kinds": kinds}


def test_rows_when_boxes_are_below_then_add_up_to_the_root():
    survey = [
        memcg("/"),
        memcg("/a", boxes=[box("x", 5, 2, task=3)]),
        memcg("/a/b", boxes=[box("y", 7, 1, task=1, thread=4)]),
        memcg("/ab", boxes=[box("z", 1, 0)]),
    ]
    root, a, b, ab = Watch().look(survey, 1.0)
    assert [row.boxes for row in (root, a, b, ab)] == [3, 2, 1, 1]
    assert [row.calls for row in (root, a, b, ab)] == [13, 12, 7, 1]
    assert a.kinds == {
        "task": {"live": 4, "nbytes": 40, "refused": 3},
        "thread": {"live": 4, "nbytes": 40, "refused": 1},
    }


def test_rates_when_looked_at_twice_then_count_what_came_between():
    watch = Watch()
    first = watch.look([memcg("/", boxes=[box("x", 100, 50)])], 10.0)
    assert (first[0].calls_per_second, first[0].refused_per_second) == (0, 0)
    again = [memcg("/", boxes=[box("x", 110, 53), box("new", 4, 1)])]
    assert watch.look(again, 12.0)[0].calls_per_second == 7
    assert watch.look(again, 13.0)[0].refused_per_second == 0


def test_rates_when_a_box_has_ended_then_are_never_negative():
    watch = Watch()
    watch.look([memcg("/", boxes=[box("x", 100, 50)])], 10.0)
    (row,) = watch.look([memcg("/")], 11.0)
    assert (row.calls_per_second, row.refused, row.boxes) == (0, 0, 0)


def test_limit_when_it_is_the_kernels_own_big_number_then_is_none():
    tracked, held, free = Watch().look(
        [memcg("/t", 10, 9223372036854771712), memcg("/h", 10, 40), memcg("/f", 10)], 0
    )
    assert (tracked.limit, held.limit, free.limit) == (None, 40, None)
    assert (tracked.share, held.share) == (None, 0.25)


def test_ordered_when_by_each_name_then_the_busiest_leads():
    watch = Watch()
    watch.look([memcg("/a", boxes=[box("x", 0, 0)]), memcg("/b", boxes=[box("y", 0, 0)])], 0)
    rows = watch.look(
        [memcg("/a", 5, 100, [box("x", 9, 1)]), memcg("/b", 4, 8, [box("y", 2, 2)])], 1
    )
    firsts = {name: ordered(rows, name)[0].path for name, _ in SORTS.values()}
    assert firsts == {"path": "/a", "usage": "/a", "limit": "/b", "refusals": "/b", "calls": "/a"}
