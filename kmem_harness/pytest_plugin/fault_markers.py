"""Read the markers that fail calls on purpose: ``kmem_fault`` and ``kmem_sweep``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kmem_harness.pytest_plugin.nearest import bad_marker, bind, read_nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmem_harness.faults.sweep import Plan

__all__ = [
    "FAULT_MARKERS",
    "Fault",
    "faults_of",
    "judge_fault_markers",
    "pytest_pyfunc_call",
    "sweep_of",
]

#: As ``pytest --markers`` shows them.
FAULT_MARKERS = (
    (
        "kmem_fault(rule, ..., container=None): fail or delay calls in each container of the test, "
        'or in its 1st, 2nd, ... alone, as "socket:error=ENOMEM:when=3" says; counted over all '
        "processes of a container. Several markers add up."
    ),
    (
        'kmem_sweep(max=None, calls="charge", error="ENOMEM", modes=("once", "persist"), '
        "exits=None): run the test again and again, with the 1st, 2nd, ... charge of a container "
        "failed, until none is met, MAX at most; one container after the other; each run is a subtest."
    ),
)

# What a marker may say. Its text stands in messages, so it is written as a user writes it.
_KMEM_FAULT = inspect.signature(lambda rule, *rules, container=None: None)  # noqa: ARG005
_KMEM_SWEEP = inspect.signature(
    lambda max=None, calls="charge", error="ENOMEM", modes=("once", "persist"), exits=None: None  # noqa: A006, ARG005
)


class Fault(NamedTuple):
    """A rule for every container of a test, or for the *container*-th that is made, from 1 on."""

    rule: str
    container: int | None = None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Sweep instead of a single run, where a test asks for that."""
    if not any(pyfuncitem.iter_markers("kmem_sweep")):
        return None
    from kmem_harness.pytest_plugin.sweeping import run_swept

    return run_swept(pyfuncitem) or None


def judge_fault_markers(item: pytest.Item) -> None:
    """See that a test's markers can be used. Raises: KmemFailed naming the test."""
    faults_of(item)
    if sweep_of(item) is None:
        return
    if "kmem_container" not in getattr(item, "fixturenames", ()):
        raise bad_marker(
            item,
            "kmem_sweep fails charges of kmem_container's containers, and "
            "the test does not use that fixture; add it to the test's arguments",
        )
    if not isinstance(item, pytest.Function) or getattr(item, "_testcase", None) is not None:
        raise bad_marker(
            item,
            "kmem_sweep runs a test function many times, which a method of "
            "unittest's cannot be; make it a plain function",
        )
    if inspect.iscoroutinefunction(getattr(item, "function", None)):
        raise bad_marker(
            item,
            "kmem_sweep cannot run a coroutine many times; make the test a plain function",
        )


def faults_of(node: pytest.Item | pytest.Collector) -> tuple[Fault, ...]:
    """Give what all ``kmem_fault`` markers of *node* say, the outermost first.

    Raises: KmemFailed naming the test.
    """
    markers = list(node.iter_markers("kmem_fault"))
    return tuple(
        fault
        for marker in reversed(markers)
        for fault in bind(node, marker, _KMEM_FAULT, _read_rules)
    )


def sweep_of(node: pytest.Item | pytest.Collector) -> Plan | None:
    """Give the plan of the nearest ``kmem_sweep`` marker of *node*, ``None`` if there is none.

    Raises: KmemFailed naming the test.
    """
    plan: Plan | None = read_nearest(node, "kmem_sweep", _KMEM_SWEEP, _read_sweep)
    return plan


def _read_rules(rule: Any, rules: Sequence[Any], container: Any) -> list[Fault]:
    from kmem_harness.faults.rule import parse_rules
    from kmem_harness.hooks import Hooks

    if container is not None and (not _is_whole(container) or container < 1):
        message = f"container={container!r}: containers are counted from 1, as they are made"
        raise ValueError(message)
    texts = (rule, *rules)
    try:
        parsed = parse_rules(texts)
    except ValueError:
        # It may be a plugin's; those are looked for only then.
        parsed = parse_rules(texts, Hooks().fault_rules())
    return [Fault(one.text, container) for one in parsed]


def _read_sweep(max: Any, calls: Any, error: Any, modes: Any, exits: Any) -> Plan:  # noqa: A002 - as in the marker
    from kmem_harness.faults.sweep import Plan

    if max is not None and not _is_whole(max):
        message = f"max={max!r} is no whole number"
        raise ValueError(message)
    if isinstance(modes, str):
        modes = (modes,)
    if exits is not None and (
        isinstance(exits, (str, int)) or not all(isinstance(code, int) for code in exits)
    ):
        message = f"exits={exits!r} is no list of exit codes; write exits=(0, 1)"
        raise ValueError(message)
    return Plan(
        calls=str(calls),
        error=str(error),
        modes=tuple(modes),
        max=max,
        exits=None if exits is None else frozenset(exits),
        compares_output=False,
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
