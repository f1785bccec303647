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
#: Counter: the setting of a unit that limits it.
_SETTINGS = {"kmem": "X-KmemMax=", "memory": "MemoryMax=", "injected": "X-KmemInject="}
_NOTHING = {"limit": UNLIMITED, "usage": 0, "max_usage": 0, "failcnt": 0}


def _no_refusals() -> dict[str, Any]:
    return {"total": 0, "cards": [], "by": {}}


@dataclass
class Account:
    """What is known of one unit's memcg, and of the refusals in its boxes."""

    path: str
    counters: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"kmem": dict(_NOTHING), "memory": dict(_NOTHING)}
    )
    nr_tasks: int = 0
    nr_tasks_peak: int = 0
    #: Forks that ``TasksMax=`` refused, by the unit that has it: the kernel's own count.
    tasks_refused: dict[str, int] = field(default_factory=dict)
    #: Of activations that are over, and of the one at hand.
    _past: dict[str, Any] = field(default_factory=_no_refusals)
    _now: dict[str, Any] = field(default_factory=_no_refusals)

    #: Forks that the box's own bound on tasks refused.
    _past_pids: int = 0
    _pids: int = 0

    def look(self, report: dict[str, Any]) -> bool:
        """Take in the report of a running box; true if a memory limit refused something since."""
        before = self.nr_refused_by_memory
        self.take_counters(report["memcg"])
        tasks = [kind for name, kind in report["kinds"].items() if name in _TASKS]
        self.nr_tasks = sum(kind["live"] for kind in tasks)
        peaks = [kind["live_peak"] for kind in tasks]
        self.nr_tasks_peak = max(self.nr_tasks_peak, self.nr_tasks, *peaks)
        self._now = report["refusals"]
        self._pids = (report.get("pids") or {}).get("refused") or 0
        return self.nr_refused_by_memory > before

    def close(self, report: dict[str, Any]) -> None:
        """Take in the last report of a box that is over."""
        self.look(report)
        self._past = {"total": self.nr_refused, "cards": self.cards, "by": self.refused_by()}
        self._now = _no_refusals()
        self._past_pids += self._pids
        self._pids = 0
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
        """How many of the refusals were a memory counter's."""
        return sum(counts.get("memory", 0) for counts in self.refused_by().values())

    def refused_by(self) -> dict[str, dict[str, int]]:
        """Count all refusals by memcg and by its counter: kmem, memory, or injected."""
        found: dict[str, dict[str, int]] = {}
        for memcg, counts in (*self._past["by"].items(), *self._now["by"].items()):
            row = found.setdefault(memcg, {})
            for counter, count in counts.items():
                row[counter] = row.get(counter, 0) + count
        return found

    def refusals(self) -> dict[str, Any]:
        """Sum up the refusals; ``by`` counts them by the memcg whose counter said no."""
        cards = self.cards
        return {
            "total": self.nr_refused,
            "first": cards[0] if cards else None,
            "by": {memcg: sum(counts.values()) for memcg, counts in self.refused_by().items()},
            "by_setting": self.refused_by_setting(),
        }

    def refused_by_setting(self) -> dict[str, int]:
        """Count refusals by the setting they are due to: ``X-KmemMax= of a.service``."""
        found: dict[str, int] = {}
        for memcg, counts in self.refused_by().items():
            for counter, count in counts.items():
                key = (
                    f"{_SETTINGS.get(counter, counter)} of {memcg.rpartition('/')[2] or '-.slice'}"
                )
                found[key] = found.get(key, 0) + count
        own = self.path.rpartition("/")[2]
        bounds = [(own, self._past_pids + self._pids), *self.tasks_refused.items()]
        for unit, count in bounds:
            if count:
                key = f"TasksMax= of {unit}"
                found[key] = found.get(key, 0) + count
        return found


def set_memcg_limit(memcg: MemcgHandle, counter: str, nbytes: int, *, made_now: bool) -> None:
    """Give a counter a limit, or none.

    Without one, kernel memory is accounted all the same, so that a limit can be set later.
    Raises: OSError, as the kernel's.
    """
    if counter == "kmem":
        memcg.write("memory.kmem.limit_in_bytes", str(nbytes if nbytes >= 0 else _ACCOUNT_ONLY))
    elif nbytes >= 0 or not made_now:
        memcg.write("memory.limit_in_bytes", str(nbytes) if nbytes >= 0 else "-1")
