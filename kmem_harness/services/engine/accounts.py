"""Keep the figures of a unit over all its activations: usage, tasks, refusals. Units: bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kmem_harness.core.sizes import UNLIMITED

if TYPE_CHECKING:
    from kmem_harness.handles import MemcgHandle

__all__ = ["Account", "set_memcg_limit"]

_MOST_CARDS = 100
#: A limit that nothing meets: with it a box is under a filter, and can be given another later.
_ACCOUNT_ONLY = 1 << 62
#: The kinds that are processes and threads: as forked, after they executed something, and those.
_TASKS = ("task", "exec", "thread", "zombie")
_NOTHING = {"limit": UNLIMITED, "usage": 0, "max_usage": 0, "failcnt": 0}


@dataclass
class Account:
    """What is known of one unit's memcg, and of the refusals in its boxes."""

    path: str
    counters: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"kmem": dict(_NOTHING), "memory": dict(_NOTHING)}
    )
    nr_tasks: int = 0
    nr_tasks_peak: int = 0
    #: Of activations that are over.
    _past: dict[str, Any] = field(default_factory=lambda: {"total": 0, "cards": []})
    _now: dict[str, Any] = field(default_factory=lambda: {"total": 0, "cards": []})

    def look(self, report: dict[str, Any]) -> bool:
        """Take in the report of a running box; true if a memory limit refused something since."""
        before = self.nr_refused_by_memory
        self.take_counters(report["memcg"])
        tasks = [kind for name, kind in report["kinds"].items() if name in _TASKS]
        self.nr_tasks = sum(kind["live"] for kind in tasks)
        peaks = [kind["live_peak"] for kind in tasks]
        self.nr_tasks_peak = max(self.nr_tasks_peak, self.nr_tasks, *peaks)
        self._now = report["refusals"]
        return self.nr_refused_by_memory > before

    def close(self, report: dict[str, Any]) -> None:
        """Take in the last report of a box that is over."""
        self.look(report)
        self._past["total"] += self._now["total"]
        self._past["cards"] = [*self._past["cards"], *self._now["cards"]][:_MOST_CARDS]
        self._now = {"total": 0, "cards": []}
        self.nr_tasks = 0

    def take_counters(self, counters: dict[str, Any]) -> None:
        """Take in both counters, in the shape of a report's ``memcg``."""
        for name in ("kmem", "memory"):
            row = dict(counters[name])
            if row["limit"] >= _ACCOUNT_ONLY:
                row["limit"] = UNLIMITED
            self.counters[name] = row

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The first hundred refusals."""
        return [*self._past["cards"], *self._now["cards"]][:_MOST_CARDS]

    @property
    def nr_refused(self) -> int:
        """How many calls were refused so far."""
        return int(self._past["total"] + self._now["total"])

    @property
    def nr_refused_by_memory(self) -> int:
        """How many of the first hundred refusals were a memory counter's."""
        return sum(card["counter"] == "memory" for card in self.cards)

    def refusals(self) -> dict[str, Any]:
        """Sum up the refusals; ``by`` counts those on cards by the memcg whose counter said no."""
        by: dict[str, int] = {}
        for card in self.cards:
            by[card["refused_by"]] = by.get(card["refused_by"], 0) + 1
        cards = self.cards
        return {"total": self.nr_refused, "first": cards[0] if cards else None, "by": by}


def set_memcg_limit(memcg: MemcgHandle, counter: str, nbytes: int, *, made_now: bool) -> None:
    """Give a counter a limit, or none.

    Without one, kernel memory is accounted all the same, so that a limit can be set later.
    Raises: OSError, as the kernel's.
    """
    if counter == "kmem":
        memcg.write("memory.kmem.limit_in_bytes", str(nbytes if nbytes >= 0 else _ACCOUNT_ONLY))
    elif nbytes >= 0 or not made_now:
        memcg.write("memory.limit_in_bytes", str(nbytes) if nbytes >= 0 else "-1")
