"""Take a page apart as a reader's browser would, and make reports to fill one with."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

__all__ = ["Reader", "card", "report"]


class Reader(HTMLParser):
    """The embedded JSON of a page, its visible text, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.embedded: dict[str, Any] = {}
        self.cells: list[list[str]] = []
        self.words: list[str] = []
        self.fetched: list[str] = []
        self._in: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "tr":
            self.cells.append([])
        if tag in {"td", "th"}:
            self.cells[-1].append("")
        self.fetched += [value for name, value in attrs if name in {"src", "data"} and value]
        if tag == "link":
            self.fetched.append(str(named.get("href")))
        if tag not in {"meta", "link"}:
            self._in.append((tag, named))

    def handle_endtag(self, tag):
        assert self._in.pop()[0] == tag

    def handle_data(self, data):
        if not self._in:
            return
        tag, named = self._in[-1]
        if tag == "script" and named.get("type") == "application/json":
            self.embedded[named["id"]] = json.loads(data)
        elif tag not in {"script", "style"}:
            self.words.append(data)
            if any(tag in {"td", "th"} for tag, _ in self._in):
                self.cells[-1][-1] += data

    @property
    def traces(self) -> dict[str, dict[str, Any]]:
        """The traces of all figures, by figure and name."""
        return {
            f"{figure['name']}: {trace['name']}": trace
            for figure in self.embedded["figures"]
            for trace in figure["traces"]
        }


def card(path: str, when: float, **more: Any) -> dict[str, Any]:
    """Make a refusal card of memcg *path*."""
    return {
        "time": when,
        "box": path.rpartition("/")[2],
        "pid": 41,
        "tid": 41,
        "comm": "sh",
        "syscall": "clone",
        "kind": "task",
        "nbytes": 8192,
        "errno": "ENOMEM",
        "memcg": path,
        "refused_by": path,
        "counter": "kmem",
        "usage": 16384,
        "limit": 16384,
        "live": {"task": 2},
    } | more


def report(path: str, began: float = 1000.0, **more: Any) -> dict[str, Any]:
    """Make the report of a run in memcg *path* that rose to two tasks and a thread."""
    counter = {"limit": 32768, "usage": 0, "max_usage": 20480, "failcnt": 0}
    kind = {"charged": 2, "uncharged": 2, "refused": 0, "live": 0, "live_peak": 2}
    return {
        "version": 1,
        "runtime": "local",
        "isolation": "user",
        "kernel": "v4",
        "command": ["sh", "-c", "exit 3"],
        "exit_code": 3,
        "signal": None,
        "wall_seconds": 1.5,
        "mode": "enforce",
        "memcg": {
            "path": path,
            "kmem": counter,
            "memory": {"limit": -1, "usage": 0, "max_usage": 20480, "failcnt": 0},
        },
        "kinds": {
            "task": kind | {"bytes_each": 8192},
            "thread": kind | {"charged": 1, "uncharged": 1, "live_peak": 1, "bytes_each": 4096},
            "pipe": dict.fromkeys(kind, 0) | {"bytes_each": 512},
        },
        "refusals": {"total": 0, "first": None, "cards": []},
        "notifications": 3,
        "census": {"count": 2, "seconds": 0.001},
        "events_lost": 0,
        "timeline": {
            "began": began,
            "seconds": [0.5, 0.75, 1.0, 1.5],
            "usage": [8192, 16384, 20480, 0],
            "refused": [0, 0, 0, 0],
            "live": {"task": [1, 2, 2, 0], "thread": [0, 0, 1, 0]},
        },
        "controller_died": False,
    } | more
