"""Export the figures of every box of kmem-harness to Prometheus. Uses its hooks, and nothing else.

Counts nothing itself: a scrape asks each box for its report, so what is served is what it says.
"""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from kmem_harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from kmem_harness import Box

__all__ = ["Figures", "kmem_after_remove", "kmem_after_start"]

PORT = "KMEM_HARNESS_PROMETHEUS_PORT"


class Figures:
    """A collector: the reports of the boxes that run, and the last ones of those that are gone."""

    def __init__(self) -> None:
        """Start with no box."""
        self._lock = threading.Lock()
        self._boxes: dict[str, Box] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def add(self, box: Box) -> None:
        """Serve the figures of *box*."""
        with self._lock:
            self._boxes[box.name] = box

    def settle(self, box: Box) -> None:
        """Keep the last figures of *box*, which is gone."""
        report = box.report()
        with self._lock:
            self._boxes.pop(box.name, None)
            self._last[box.name] = report

    def collect(self) -> Iterator[Metric]:
        """Give every metric; prometheus_client calls this at a scrape."""
        with self._lock:
            boxes, reports = list(self._boxes.values()), list(self._last.values())
        reports += [box.report() for box in boxes]
        yield from _metrics(reports)

    def describe(self) -> list[Metric]:
        """Say that there is nothing to say before the first scrape."""
        return []


def _metrics(reports: list[dict[str, Any]]) -> Iterator[Metric]:
    by_counter = ("memcg", "counter")
    usage = GaugeMetricFamily("kmem_usage_bytes", "Charged now.", labels=by_counter)
    peak = GaugeMetricFamily("kmem_max_usage_bytes", "The highest usage so far.", labels=by_counter)
    limit = GaugeMetricFamily("kmem_limit_bytes", "The limit.", labels=by_counter)
    failcnt = CounterMetricFamily("kmem_failcnt", "How often the limit was met.", labels=by_counter)
    refusals = CounterMetricFamily(
        "kmem_refusals", "Calls refused, by kind of object.", labels=("memcg", "kind")
    )
    # Several boxes may share a memcg: its counters are the same in each report, its kinds add up.
    counters = {report["memcg"]["path"]: report["memcg"] for report in reports}
    refused: dict[tuple[str, str], int] = {}
    for report in reports:
        for kind, row in report["kinds"].items():
            key = (report["memcg"]["path"], kind)
            refused[key] = refused.get(key, 0) + row["refused"]
    for path, memcg in counters.items():
        for name in ("kmem", "memory"):
            row, labels = memcg[name], (path, name)
            usage.add_metric(labels, row["usage"])
            peak.add_metric(labels, row["max_usage"])
            limit.add_metric(labels, math.inf if row["limit"] < 0 else row["limit"])
            failcnt.add_metric(labels, row["failcnt"])
    for labels, count in refused.items():
        refusals.add_metric(labels, count)
    return iter((usage, peak, limit, failcnt, refusals))


_figures: Figures | None = None
_starting = threading.Lock()


def _served() -> Figures:
    """Give the figures that are served, from the first box on."""
    global _figures  # noqa: PLW0603 - a registry is the process's own, and so are they
    with _starting:
        if _figures is None:
            _figures = Figures()
            REGISTRY.register(_figures)
            port = os.environ.get(PORT)
            if port:
                start_http_server(int(port), addr="127.0.0.1")
        return _figures


@hookimpl
def kmem_after_start(box: Box) -> None:
    """Serve the figures of a box from its start on."""
    _served().add(box)


@hookimpl
def kmem_after_remove(box: Box) -> None:
    """Keep a box's last figures."""
    _served().settle(box)
