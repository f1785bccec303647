"""Keep the runs of an experiment in SQLite, each once, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Self

    from kmem_harness.experiments.model import Experiment

__all__ = ["STORE_VERSION", "Store"]

STORE_VERSION = 1
#: What reading a file shows that SQLite takes and that we have not written.
_DAMAGED = (sqlite3.DatabaseError, zlib.error, TypeError, ValueError, RecursionError)
_TABLES = """
CREATE TABLE about (version INTEGER, name TEXT, digest TEXT, experiment TEXT);
CREATE TABLE runs (
    key TEXT PRIMARY KEY,      -- what the run is; nothing is stored twice
    params TEXT,               -- JSON
    repeat INTEGER,
    passed INTEGER,
    seconds REAL,
    worker TEXT,
    outcome TEXT,              -- JSON: all of the run but its reports
    reports BLOB               -- JSON, compressed by zlib: a report for each box
);
"""


class Store:
    """One experiment's results file."""

    def __init__(self, path: str, experiment: Experiment | None = None) -> None:
        """Open *path*; with an *experiment*, make it or see that it holds that experiment's runs.

        Raises: ConfigurationError if it is another experiment's, another version's, or no results.
        """
        self.path = path
        fresh = not os.path.exists(path)
        if fresh and experiment is None:
            raise ConfigurationError(f"{path}: no results there; run the experiment first")
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            with self._reading():
                # A killed run leaves whole rows; after a power cut the last may be made again.
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")
                self._open(experiment)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Give it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def experiment(self) -> dict[str, Any]:
        """The experiment as it was run."""
        with self._reading():
            (text,) = self._database.execute("SELECT experiment FROM about").fetchone()
            shape: dict[str, Any] = json.loads(text)
            return shape

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Give all runs by key, in the order they were stored, without their reports."""
        with self._reading():
            rows = self._database.execute("SELECT key, outcome FROM runs ORDER BY rowid")
            return {key: json.loads(text) for key, text in rows}

    def reports(self, key: str) -> dict[str, Any]:
        """Give the reports of one run's boxes, by box."""
        with self._reading():
            row = self._database.execute("SELECT reports FROM runs WHERE key=?", (key,)).fetchone()
            found: dict[str, Any] = json.loads(zlib.decompress(row[0]))
            return found

    def add(self, outcome: Mapping[str, Any], reports: Mapping[str, Any]) -> bool:
        """Store one run; false if it is there already, and then that one stays."""
        with closing(
            self._database.execute(
                "INSERT OR IGNORE INTO runs VALUES (?,?,?,?,?,?,?,?)",
                (
                    outcome["key"],
                    json.dumps(outcome["params"]),
                    outcome["repeat"],
                    outcome["passed"],
                    outcome["seconds"],
                    outcome["worker"],
                    json.dumps(outcome),
                    zlib.compress(json.dumps(reports).encode()),
                ),
            )
        ) as cursor:
            return cursor.rowcount == 1

    def forget_provisional(self) -> int:
        """Let go of runs that failed for want of an answer, without a refusal; give how many.

        They are made again: it may have been the machine that was busy, and no limit.
        """
        found = [key for key, one in self.outcomes().items() if one.get("provisional")]
        for key in found:
            self._database.execute("DELETE FROM runs WHERE key=?", (key,))
        return len(found)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say of a file that cannot be read that it is none of ours. Raises: ConfigurationError."""
        try:
            yield
        except _DAMAGED as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(
                f"{self.path}: not results of ours, or damaged: {error}; "
                "name another folder with -o"
            ) from error

    def _open(self, experiment: Experiment | None) -> None:
        there = self._database.execute(
            "SELECT count(*) FROM sqlite_master WHERE name='about'"
        ).fetchone()[0]
        if not there:
            if experiment is None:
                raise ConfigurationError(f"{self.path}: holds no experiment")
            self._database.executescript(f"BEGIN; {_TABLES}")
            self._database.execute(
                "INSERT INTO about VALUES (?,?,?,?)",
                (
                    STORE_VERSION,
                    experiment.name,
                    experiment.digest,
                    json.dumps(experiment.as_dict()),
                ),
            )
            self._database.execute("COMMIT")
            return
        version, digest = self._database.execute("SELECT version, digest FROM about").fetchone()
        if version != STORE_VERSION:
            raise ConfigurationError(
                f"{self.path}: results of version {version}, and this kmem-harness reads version "
                f"{STORE_VERSION}; use the release that wrote them, or name another folder with -o"
            )
        if experiment is not None and digest != experiment.digest:
            changed = _difference(self.experiment, experiment.as_dict())
            raise ConfigurationError(
                f"{self.path}: these are results of another experiment ({changed} differs); name "
                "another folder with -o, or move this one away"
            )


def _difference(one: Any, other: Any, where: str = "") -> str:
    """Name the first place where two experiments differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return _difference(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
    return where or "something"
