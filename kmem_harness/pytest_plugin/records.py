"""Take down what one memcg and the containers below it used: a test's, a module's, the session's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.pytest_plugin.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.harness import Box, MemcgHandle
    from kmem_harness.pytest_plugin.fault_markers import Fault
    from kmem_harness.pytest_plugin.markers import Limit
    from kmem_harness.pytest_plugin.outputs import LastWords

__all__ = ["LEFT", "SESSION", "Record", "begin", "own_record", "take_settled", "wider"]

SESSION = "(session)"
#: Where a worker of pytest-xdist has figures that no test report has taken along, as JSON.
LEFT = "kmem_figures"


class Record:
    """What is known of one memcg of ours, while it is there and afterwards."""

    def __init__(self, scope: str, name: str, memcg: MemcgHandle, limit: Limit) -> None:
        """Begin with no containers."""
        self.scope = scope
        #: The test's, class's or module's node id.
        self.name = name
        self.memcg = memcg
        self.limit = limit
        self.boxes: list[Box] = []
        #: What markers say, and the rule of a sweep for each container, by its number.
        self.faults: tuple[Fault, ...] = ()
        self.swept: Callable[[int], str] | None = None
        #: pytest's own ``subtests`` for a sweep, where this pytest has such.
        self.subtests: Any = None
        #: Gives what its containers said last, where an engine keeps that.
        self.last_words: LastWords | None = None
        #: Boxes that were ended at their timeout, with it. Units: seconds.
        self.timed_out: dict[Box, float] = {}
        self.settled = False
        #: Where what its containers left is kept.
        self.kept: str | None = None

    def counters(self) -> dict[str, Any] | None:
        """Give the memcg's counters, ``None`` if the controller is gone."""
        from kmem_harness.core.errors import KmemHarnessError

        try:
            return self.memcg.counters()
        except (KmemHarnessError, OSError):
            return None

    def reports(self) -> list[dict[str, Any]]:
        """Give the report of each container."""
        return [{**box.report(), "timed_out": box in self.timed_out} for box in self.boxes]

    def rules_for(self, number: int) -> tuple[str, ...]:
        """List the fault rules of the *number*-th container: a sweep's first, then the markers'."""
        swept = () if self.swept is None else (self.swept(number),)
        return (*swept, *(one.rule for one in self.faults if one.container in (None, number)))

    def refused(self) -> Counter[str]:
        """Count what its containers were refused so far, by kind of object."""
        return _refusals_by_kind(self.reports())

    def share(self, config: pytest.Config, test: str, refused: Counter[str]) -> None:
        """Hand on what *test* did with containers that it shares: what it was *refused*."""
        figures = self._figures(test, "function", [], refused)
        config.stash[_SETTLED].append({**figures, "shared": self.name})

    def settle(self, config: pytest.Config) -> None:
        """Hand the final figures to the next test report. May be called again."""
        if self.settled:
            return
        self.settled = True
        if self in config.stash[_WIDER]:
            config.stash[_WIDER].remove(self)
        reports = self.reports()
        figures = self._figures(self.name, self.scope, reports, _refusals_by_kind(reports))
        if not config.stash[SETTINGS].report:
            figures["containers"] = []  # bulky: only for those who asked for a file
        config.stash[_SETTLED].append(figures)

    def _figures(
        self, name: str, scope: str, reports: list[dict[str, Any]], refused: Counter[str]
    ) -> dict[str, Any]:
        return {
            "name": name,
            "scope": scope,
            "mode": self._mode(reports),
            "memcg": self.counters(),
            "refusals": {"total": refused.total(), "by_kind": dict(refused)},
            "nr_containers": len(reports),
            "ended": [report["ended"]["reason"] for report in reports if report["ended"]],
            "kept": self.kept,
            "containers": reports,
        }

    def _mode(self, reports: list[dict[str, Any]]) -> str:
        """Say "off" where nobody counted anything: no container had a limit."""
        counted = [report["mode"] for report in reports if report["mode"] != "off"]
        return "off" if reports and not counted else self.limit.mode


_RECORDS: pytest.StashKey[dict[str, Record]] = pytest.StashKey()
_WIDER: pytest.StashKey[list[Record]] = pytest.StashKey()
_SETTLED: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()


def begin(request: pytest.FixtureRequest, memcg: MemcgHandle, limit: Limit) -> Record:
    """Give the open record of the test, class, module or session of *request*, begun at its first use."""
    stash, config = request.node.stash, request.config
    # By scope: outside of any class, a class-scoped fixture's node is the test itself.
    records: dict[str, Record] = stash.setdefault(_RECORDS, {})
    record = records.get(request.scope)
    if record is None or record.settled:  # settled: the test runs once more
        config.stash.setdefault(_SETTLED, [])
        name = SESSION if request.scope == "session" else request.node.nodeid
        record = records[request.scope] = Record(request.scope, name, memcg, limit)
        wide = config.stash.setdefault(_WIDER, [])
        if request.scope != "function":
            wide.append(record)
    return record


def own_record(item: pytest.Item) -> Record | None:
    """Give the record of a test itself, open or not, ``None`` if it never had one."""
    return item.stash.get(_RECORDS, {}).get("function")


def wider(config: pytest.Config) -> list[Record]:
    """List the open records of classes, modules and the session."""
    return config.stash.get(_WIDER, [])


def take_settled(config: pytest.Config) -> list[dict[str, Any]]:
    """Take the figures that no test report has taken along yet."""
    settled = config.stash.get(_SETTLED, [])
    taken, settled[:] = settled[:], []
    return taken


def _refusals_by_kind(reports: list[dict[str, Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for report in reports:
        for kind, row in report["kinds"].items():
            found[kind] += row["refused"] + row.get("injected", 0)
    return +found  # without those that were never refused
