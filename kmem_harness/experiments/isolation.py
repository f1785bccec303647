"""Compare a victim's latency beside an aggressor with that without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.experiments.experiment_file import factor_of
from kmem_harness.experiments.probe import measure

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from kmem_harness.experiments.probe import Latency

__all__ = ["assert_isolated", "complaint"]


def assert_isolated(
    victim: Callable[[], object],
    aggressor: Callable[[], AbstractContextManager[object]],
    *,
    p99: str | float = "2x",
    seconds: float = 2.0,
    period: float = 0.005,
    slack: float = 0.001,
) -> tuple[Latency, Latency]:
    """Assert that an aggressor leaves a victim's 99th percentile below *p99* times what it was.

    *victim* makes one request and raises if it fails; *aggressor* starts what disturbs, such as
    ``lambda: harness.run([...], kmem_limit="8M")``, and is ended as a context manager. Units:
    seconds; *slack* is as much as nobody complains about.

    Shape: the latency without, and beside it. Raises: AssertionError, ConfigurationError.
    """
    factor = factor_of(p99)
    alone = measure(victim, seconds, period)
    with aggressor():
        beside = measure(victim, seconds, period)
    wrong = complaint("the victim", alone, beside, factor, slack)
    if wrong:
        raise AssertionError(wrong)
    return alone, beside


def complaint(name: str, alone: Latency, beside: Latency, factor: float, slack: float) -> str:
    """Say what is wrong with a victim's latency, or nothing."""
    for when, latency in (("alone", alone), ("beside the aggressor", beside)):
        if latency.failures:
            return f"{name} failed {latency.failures} of {latency.samples} requests {when}"
    bound = max(alone.p99 * factor, alone.p99 + slack)
    if beside.p99 <= bound:
        return ""
    return (
        f"{name}: p99 {beside.p99 * 1000:.2f} ms beside the aggressor, {alone.p99 * 1000:.2f} ms "
        f"alone; at most {bound * 1000:.2f} ms are allowed"
    )
