"""Plans: bisection finds the boundary, keys are the same everywhere, nothing runs twice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmem_harness.experiments import parse
from kmem_harness.experiments.parameters import Bisection
from kmem_harness.experiments.plan import Plan, Series
from tests.experiments.tables import forkers


@given(
    st.integers(1, 1 << 20),
    st.integers(1, 1 << 24),
    st.integers(1, 1 << 12),
    st.floats(0, 1.2),
)
def test_bisection_when_one_value_is_the_boundary_then_finds_it_within_the_resolution(
    low, more, resolution, where
):
    bisection = Bisection("limit", low, low + more, resolution)
    boundary = low + int(more * where)
    series = Series({}, bisection)
    tried = []
    while (value := series.value) is not None:
        assert bisection.low <= value <= bisection.high
        assert value not in tried
        left = series.steps_left
        tried.append(value)
        series.learn(passed=value >= boundary)
        assert series.steps_left < left
    assert len(tried) <= 2 + math.log2(more / resolution + 2)
    if boundary > bisection.high:
        assert series.hopeless
        assert series.smallest is None
    else:
        assert boundary <= series.smallest < boundary + resolution


def outcomes(plan, passes):
    """Make all runs of *plan*, each judged by *passes*; give them in order."""
    made = []
    todo = plan.first()
    while todo:
        job = todo.pop(0)
        made.append(job)
        todo += plan.learn(job.key, passed=passes(job))
    return made


def test_plan_when_bisecting_then_each_series_finds_its_own():
    plan = Plan(parse(forkers(repeats=3)))
    made = outcomes(plan, lambda job: job.params["limit"] >= job.params["n"] * 8192)
    assert [series.smallest for series in plan.series] == [2 * 8192, 5 * 8192]
    assert len({job.key for job in made}) == len(made)
    assert plan.still_expected == 0


def test_plan_when_made_twice_then_keys_and_seeds_are_the_same():
    first, second = (outcomes(Plan(parse(forkers())), lambda job: job.seed % 2) for _ in range(2))
    assert [(job.key, job.seed) for job in first] == [(job.key, job.seed) for job in second]
    other = Plan(parse(forkers(seed=5))).first()
    assert [job.key for job in other] == [job.key for job in Plan(parse(forkers())).first()]
    assert [job.seed for job in other] != [job.seed for job in Plan(parse(forkers())).first()]


@pytest.mark.parametrize(("rate", "found"), [(1, 5 * 8192), (0.6, 2 * 8192)])
def test_plan_when_some_repeats_fail_then_the_pass_rate_decides(rate, found):
    plan = Plan(
        parse(
            forkers(repeats=3, pass_rate=rate, vary={"limit": {"bisect": ["8k", "128k"]}, "n": [1]})
        )
    )

    def passes(job):
        limit = job.params["limit"]
        return limit >= 5 * 8192 or (limit >= 2 * 8192 and job.repeat > 0)

    outcomes(plan, passes)
    assert [series.smallest for series in plan.series] == [found]


def test_plan_when_a_grid_then_has_each_combination_with_each_repeat():
    table = forkers(
        repeats=2, vary={"n": [1, 2], "limit": {"from": "8k", "to": "24k", "step": "8k"}}
    )
    plan = Plan(parse(table))
    made = outcomes(plan, lambda _: True)
    combos = sorted((job.params["n"], job.params["limit"], job.repeat) for job in made)
    assert combos == [
        (n, limit, r) for n in (1, 2) for limit in (8192, 16384, 24576) for r in (0, 1)
    ]


def test_plan_when_boxes_take_turns_then_each_run_has_one_and_the_others():
    box = {"command": ["x"], "background": True, "health": {"command": ["y"]}}
    plan = Plan(
        parse({"name": "t", "box": {"a": box, "b": box, "c": box}, "vary": {"box": ["a", "b"]}})
    )
    assert [job.boxes for job in plan.first()] == [("a", "c"), ("b", "c")]


def test_plan_when_a_matrix_then_has_each_pair_both_ways():
    box = {"command": ["x"], "background": True, "probe": {"command": ["y"]}}
    table = {"name": "t", "box": {"a": box, "b": box}, "matrix": {"boxes": ["a", "b"]}}
    pairs = [tuple(job.pair.values()) for job in Plan(parse(table)).first()]
    assert pairs == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
